// TokenEmbedding: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// int64 ids [B, L] -> [B, L, D]. Standard member: Embedding.
class TokenEmbedding : public Unary<TokenEmbedding> {
 public:
  static constexpr const char* kFamily = "TokenEmbedding";
  static FamilyInfo family();
};

}  // namespace dropin
