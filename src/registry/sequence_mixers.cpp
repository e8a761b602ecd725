#include "dropin/nn/multihead_attention.h"
#include "dropin/nn/rnn.h"
#include "registry/lists.h"

namespace dropin {

void register_sequence_mixers(Registry& r) {
  r.add<MultiheadAttention>();
  r.add<LSTM>();
  r.add<GRU>();
}

}  // namespace dropin
