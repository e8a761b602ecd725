// What six attentions keep in memory, forward and backward: nothing of length x length.
#include "dropin/sequence/all_to_first_attention.h"
#include "dropin/sequence/combiner_attention.h"
#include "dropin/sequence/dcmh_attention.h"
#include "dropin/sequence/lookhere_attention.h"
#include "dropin/sequence/relative_position_attention.h"
#include "dropin/sequence/scatterbrain_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::random;

constexpr int64_t kLength = 1536, kHeads = 4, kWidth = 32;
// the scores of all heads, which a plain attention keeps
constexpr int64_t kScores = kHeads * kLength * kLength * 4;

/// The most that forward and backward of m take at a time, in bytes.
int64_t peak_of(SequenceMixer& m, const Tensor& x_in, const SequenceArgs& args = {}) {
  const Tensor x = x_in.clone().requires_grad_();
  reset_peak_memory();
  const int64_t before = memory_stats().allocated;
  sum(m.forward(x, args)).backward();
  EXPECT_TRUE(x.grad().defined());
  return memory_stats().peak - before;
}
Tensor tokens(DType type = kFloat32) { return random({1, kLength, kWidth}, type); }
SequenceArgs padded() {
  SequenceArgs args;
  args.key_padding_mask = zeros({1, kLength}, kBool);
  args.key_padding_mask.narrow(1, kLength - 9, 9).fill_(1);
  return args;
}

/// One layer, in float32, float64, with padding.
template <class M>
void expect_little(M& m, bool takes_masks = true) {
  SCOPED_TRACE(options_str(m.options()));
  m.train();
  EXPECT_LT(peak_of(m, tokens()), kScores / 2) << "in float32";
  if (takes_masks) {
    EXPECT_LT(peak_of(m, tokens(), padded()), kScores / 2) << "with padding";
  }
  m.to(kFloat64);
  EXPECT_LT(peak_of(m, tokens(kFloat64)), kScores) << "in float64";
}

TEST(LinearMemory, RelativePositions) {
  for (const char* method : {"shaw", "m1", "m2", "m3", "m4"})
    for (const bool causal : {false, true}) {
      if (causal && method != std::string("m4") && method != std::string("m2")) continue;
      RelativePositionAttention m({.embed_dim = kWidth,
                                   .num_heads = kHeads,
                                   .method = method,
                                   .max_position = 64,
                                   .value_embedding = causal,
                                   .causal = causal,
                                   .dropout = method == std::string("m4") && causal ? 0.1 : 0});
      expect_little(m);
    }
}

TEST(LinearMemory, LookHere) {
  for (const char* groups : {"eighths1", "center"}) {
    LookHereAttentionOptions o;
    o.embed_dim = kWidth;
    o.num_heads = kHeads;
    o.grid = {32, 48};
    o.prefix_tokens = 0;
    o.head_directions = groups;
    LookHereAttention m(o);
    expect_little(m, false);
  }
}

TEST(LinearMemory, AllToFirst) {
  AllToFirstAttention m({.embed_dim = kWidth, .num_heads = kHeads, .num_frames = 2});
  const Tensor x = random({2, kLength, kWidth}, kFloat32);
  EXPECT_LT(peak_of(m, x), kScores / 2);
}

TEST(LinearMemory, DCMHA) {
  for (const DCMHAttentionOptions& o :
       {DCMHAttentionOptions{.embed_dim = kWidth, .num_heads = kHeads},
        {.embed_dim = kWidth,
        .num_heads = kHeads,
        .causal = false,
        .window_size = 300,
        .static_mixing = true}}) {
    DCMHAttention m(o);
    expect_little(m);
  }
}

/// Twice the length takes less than three times the memory: L sqrt(L) or less, where pairs would
/// take four times.
template <class M>
void expect_slow_growth(M& m) {
  SCOPED_TRACE(options_str(m.options()));
  m.train();
  for (const DType type : {kFloat32, kFloat64}) {
    m.to(type);
    const Tensor x = random({1, 2048, kWidth}, type);
    const auto half = static_cast<double>(peak_of(m, x.narrow(1, 0, 1024))),
               whole = static_cast<double>(peak_of(m, x));
    EXPECT_LT(whole / half, 3) << (type == kFloat32 ? "float32" : "float64");
  }
}

TEST(LinearMemory, Combiner) {
  for (const char* variant : {"fixed", "logsparse", "axial_vertical", "axial_horizontal",
                              "axial_mixture", "axial_rowmajor"}) {
    CombinerAttention m({.embed_dim = kWidth,
                         .num_heads = kHeads,
                         .variant = variant,
                         .causal = true,
                         .dropout = 0.1});
    expect_slow_growth(m);
  }
  for (const bool causal : {false, true}) {
    CombinerAttention m({.embed_dim = kWidth, .num_heads = kHeads, .causal = causal});
    expect_slow_growth(m);
  }
}

TEST(LinearMemory, Scatterbrain) {
  for (const char* sparse : {"lsh", "local"})
    for (const bool causal : {false, true}) {
      ScatterbrainAttention m({.embed_dim = kWidth,
                               .num_heads = kHeads,
                               .sparse = sparse,
                               .local_context = 32,
                               .causal = causal});
      expect_slow_growth(m);
    }
}

}  // namespace
}  // namespace dropin
