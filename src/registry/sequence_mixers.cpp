#include "dropin/nn/causal_conv.h"
#include "dropin/nn/dilated_attention.h"
#include "dropin/nn/latent_attention.h"
#include "dropin/nn/hyena.h"
#include "dropin/nn/longformer_attention.h"
#include "dropin/nn/multihead_attention.h"
#include "dropin/nn/rnn.h"
#include "dropin/nn/sigmoid_attention.h"
#include "registry/lists.h"

namespace dropin {

void register_sequence_mixers(Registry& r) {
  r.add<MultiheadAttention>();
  r.add<LSTM>();
  r.add<GRU>();
  r.add<LongformerAttention>();
  r.add<DilatedAttention>();
  r.add<SigmoidAttention>();
  r.add<LatentAttention>();
  r.add_alias("LatteAttention", "LatentAttention");
  r.add<HyenaOperator>();
  r.add<CausalConv1d>();
}

}  // namespace dropin
