// TokenEmbedding: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// int64 ids [B, L] -> [B, L, D]. Standard member: Embedding.
class TokenEmbedding : public Unary<TokenEmbedding> {
 public:
  static constexpr const char* kFamily = "TokenEmbedding";
  static constexpr const char* kCall = "x [B, L] int64 ids -> y [B, L, D]";
};

}  // namespace dropin
