// States of step(): copies, choices of entries, tokens taken back, padding, over every mixer.
#include "dropin/sequence/longformer_attention.h"
#include "dropin/sequence/multihead_attention.h"
#include "sequence/mixers.h"
#include "support.h"

namespace dropin {
namespace {

using testing::device;
using testing::max_difference;
using testing::random;

std::vector<Mixer> attentions() {
  const std::string heads = R"("embed_dim": 8, "num_heads": 2, "causal": true)";
  auto with = [&](const std::string& more) { return "{" + heads + more + "}"; };
  return {
      {"MultiheadAttention", "MultiheadAttention", with("")},
      {"MultiheadAttention_rope", "MultiheadAttention", with(R"(, "rope": "half")"), true},
      {"MultiheadAttention_alibi_grouped", "MultiheadAttention",
       with(R"(, "alibi": true, "num_kv_heads": 1)"), true},
      {"SigmoidAttention", "SigmoidAttention", with(R"(, "max_seq_len": 16, "window": [5, -1])")},
      {"SigmoidAttention_alibi", "SigmoidAttention",
       with(R"(, "sigmoid_bias": -2, "alibi": true, "qk_norm": true, "learned_bias": true)"), true},
      {"SigmoidAttention_rope", "SigmoidAttention",
       with(R"(, "max_seq_len": 16, "rope": "interleaved", "hybrid_norm": "rms_norm")"), true},
      {"LongformerAttention", "LongformerAttention", with(R"(, "window": 3, "rope": "half")"),
       true},
      {"LongformerAttention_dilated", "LongformerAttention",
       with(R"(, "window": 2, "dilation": [1, 3], "global_attention": false)")},
      {"DilatedAttention", "DilatedAttention",
       with(R"(, "segment_length": [4, 12], "dilated_ratio": [1, 2])")},
      {"DilatedAttention_modulo", "DilatedAttention",
       with(
           R"(, "segment_length": [3, 10], "dilated_ratio": [1, 2], "head_offset": "modulo", "rope": "half")"),
       true},
      {"LatentAttention", "LatentAttention", with(R"(, "num_latents": 6, "chunk_size": 3)")},
      {"RelativePositionAttention", "RelativePositionAttention",
       with(R"(, "max_position": 7, "value_embedding": true)"), true},
      {"RelativePositionAttention_m1", "RelativePositionAttention",
       with(R"(, "method": "m1", "max_position": 40)"), true},
      {"RelativePositionAttention_m3", "RelativePositionAttention",
       with(R"(, "method": "m3", "max_position": 40, "value_embedding": true)"), true},
      {"DCMHAttention", "DCMHAttention", with(R"(, "window_size": 9, "static": true)")},
      {"DCMHAttention_rope", "DCMHAttention",
       with(R"(, "rope_base": 10000, "qk_norm": true, "rank": 1)"), true},
      {"CombinerAttention", "CombinerAttention", with(R"(, "span": 5, "pool": "mean")")},
      {"CombinerAttention_logsparse", "CombinerAttention", with(R"(, "variant": "logsparse")")},
      {"CombinerAttention_axial", "CombinerAttention",
       with(R"(, "variant": "axial_mixture", "span": 6)")},
      {"CombinerAttention_rowmajor", "CombinerAttention",
       with(R"(, "variant": "axial_rowmajor", "span": 4, "row_summary": "proj")")},
      {"ScatterbrainAttention", "ScatterbrainAttention",
       with(R"(, "sparse": "local", "local_context": 7)")},
  };
}
// All that have a state.
std::vector<Mixer> mixers() {
  std::vector<Mixer> all = attentions();
  const std::vector<Mixer> others = {
      {"HyenaOperator", "HyenaOperator",
       R"({"d_model": 8, "l_max": 96, "order": 3, "filter_order": 6})"},
      {"HyenaOperator_order2", "HyenaOperator",
       R"({"d_model": 8, "l_max": 96, "filter_order": 6, "short_filter_order": 1})"},
      {"CausalConv1d", "CausalConv1d", R"({"embed_dim": 8, "kernel_size": 4})"},
      {"Mamba2Mixer", "Mamba2Mixer",
       R"({"d_model": 8, "d_state": 3, "headdim": 4, "ngroups": 2, "chunk_size": 5})"},
      {"Mamba2Mixer_onetap", "Mamba2Mixer",
       R"({"d_model": 8, "d_state": 3, "headdim": 4, "d_conv": 1, "bias": true})"},
      {"FastForgetfulMemory", "FastForgetfulMemory",
       R"({"input_size": 8, "memory_size": 3, "context_size": 2, "output_size": 8, "clamp_single_step": true})"},
      {"Extractor_she", "Extractor", R"({"embed_dim": 8, "max_len": 7})"},
      {"Extractor_he", "Extractor",
       R"({"embed_dim": 8, "max_len": 50, "variant": "he", "scale": "rsqrt"})"},
      {"Extractor_absolute", "Extractor",
       R"({"embed_dim": 8, "max_len": 25, "variant": "we", "positions": "absolute"})"},
      {"Extractor_she_absolute", "Extractor",
       R"({"embed_dim": 8, "max_len": 96, "positions": "absolute", "scale": "rsqrt"})"},
      {"Extractor_me", "Extractor", R"({"embed_dim": 8, "max_len": 1, "variant": "me"})"},
      {"LSTM", "LSTM", R"({"embed_dim": 8, "num_layers": 2})"},
      {"GRU", "GRU", R"({"embed_dim": 8})"},
  };
  all.insert(all.end(), others.begin(), others.end());
  return all;
}

INSTANTIATE_TEST_SUITE_P(Mixers, States, ::testing::ValuesIn(mixers()),
                         [](const auto& info) { return info.param.label; });

// Rows of 40 tokens with padding on the left (0, 3, 17, 40 of them), in the middle and at the end.
Tensor ragged() {
  Tensor m = zeros({6, 40}, kBool);
  const int64_t left[] = {0, 3, 17, 40, 3};
  for (int64_t b = 0; b < 5; ++b) m[b].narrow(0, 0, left[b]).fill_(1);
  m[4].narrow(0, 20, 6).fill_(1);
  m[5].narrow(0, 9, 1).fill_(1);
  m[5].narrow(0, 33, 7).fill_(1);
  return m.to(device());
}

TEST_P(States, APaddedBatchInChunksEqualsEachRowAlone) {
  const Tensor pad = ragged(), x = tokens(6, 40), hidden = pad.to(Device{}).contiguous();
  Tensor dirty = x.clone();
  dirty.masked_fill_(pad.unsqueeze(-1), std::nan(""));
  for (const std::vector<int64_t>& chunks :
       {std::vector<int64_t>{40}, {1, 1, 5, 20, 6, 7}, {8, 8, 8, 8, 8}}) {
    Box<SequenceState> s = state(6);
    Tensors out;
    int64_t t = 0;
    for (const int64_t n : chunks) {
      out.push_back(step(dirty.narrow(1, t, n), *s, {.key_padding_mask = pad.narrow(1, t, n)}));
      t += n;
    }
    const Tensor y = concat(out, 1);
    EXPECT_TRUE(all(isfinite(y)).item<bool>()) << "outputs at padded places";
    const Tensor more = tokens(6, 5, 77), after = step(more, *s);  // no padding from here on
    EXPECT_EQ(s->length(), 45);
    for (int64_t b = 0; b < 6; ++b) {
      std::vector<int64_t> real;
      for (int64_t i = 0; i < 40; ++i)
        if (!hidden.data<bool>()[b * 40 + i]) real.push_back(i);
      const auto n = static_cast<int64_t>(real.size());
      const Tensor at = from_blob(real.data(), {n}, kInt64).clone().to(device());
      Box<SequenceState> alone = state(1);
      auto row = [&](const Tensor& v) { return v.narrow(0, b, 1); };
      if (n)
        EXPECT_LT(
            max_difference(step(index_select(row(x), 1, at), *alone), index_select(row(y), 1, at)),
            kTolerance)
            << "row " << b;
      EXPECT_LT(max_difference(step(row(more), *alone), row(after)), kTolerance) << "row " << b;
    }
  }
}

TEST_P(States, SelectedEntriesGoOnAsTheyWere) {
  const Tensor x = tokens(3, 33), pad = mask_of({{1, 1, 0, 0}, {0, 0, 0, 0}, {1, 0, 0, 1}}),
               head = x.narrow(1, 0, 4), more = tokens(5, 9, 6);
  for (const bool padded : {false, true}) {
    const StepArgs args{.key_padding_mask = padded ? pad : Tensor()};
    const std::vector<int64_t> chosen{2, 0, 0, 1, 2};
    const Tensor at = tensor({2, 0, 0, 1, 2}, {5}, kInt64).to(device());
    Box<SequenceState> whole = state(3), want = state(5);
    step(head, *whole, args);
    step(x.narrow(1, 4, 29), *whole);
    const Box<SequenceState> some = whole->select(chosen);
    EXPECT_EQ(some->batch(), 5);
    EXPECT_EQ(some->length(), 33);
    step(index_select(head, 0, at), *want,
         {.key_padding_mask = padded ? index_select(pad, 0, at) : Tensor()});
    step(index_select(x.narrow(1, 4, 29), 0, at), *want);
    const Tensor y = step(more, *want);
    EXPECT_LT(max_difference(step(more, *some), y), kTolerance) << padded;
    EXPECT_LT(max_difference(step(more, *whole->select(at)), y), kTolerance) << "int64 tensor";
    EXPECT_EQ(whole->select(std::vector<int64_t>{})->batch(), 0);
  }
  Box<SequenceState> s = state(2);
  EXPECT_ERROR(s->select(std::vector<int64_t>{0, 2}), IndexError,
               "select: index 2, expected 0 to 1 because the state has batch 2");
  EXPECT_ERROR(s->select(zeros({2})), DTypeError, "indices are float32, expected int64");
}

TEST_P(States, ACloneIsIndependent) {
  const Tensor x = tokens(2, 37), a = tokens(2, 35, 8), b = tokens(2, 35, 9);
  Box<SequenceState> s = state(2, 4);
  step(x, *s);
  const Box<SequenceState> copy = s->clone(), other = s->clone();
  const Tensor first = step(a, *s);  // changes s alone
  EXPECT_EQ(copy->length(), 37);
  EXPECT_EQ(max_difference(step(a, *copy), first), 0);
  s->rollback(4);
  Box<SequenceState> want = state(2);
  step(x, *want);
  EXPECT_LT(max_difference(step(b, *other), step(b, *want)), kTolerance);
}

TEST_P(States, WhatIsTakenBackWasNeverSeen) {
  const Tensor x = tokens(3, 50), wrong = tokens(3, 50, 8), more = tokens(3, 34, 9);
  const Tensor pad = mask_of({{0, 0, 0, 0, 1}, {0, 1, 0, 0, 0}, {0, 0, 0, 0, 0}});
  for (const int64_t before : {0, 1, 2, 7, 41}) {
    for (const int64_t n : {1, 3, 5}) {
      for (const bool padded : {false, true}) {
        Box<SequenceState> s = state(3, 5), want = state(3);
        step(x.narrow(1, 0, before), *s);
        step(wrong.narrow(1, 0, n), *s,
             {.key_padding_mask = padded ? pad.narrow(1, 5 - n, n) : Tensor()});
        s->rollback(n);
        EXPECT_EQ(s->length(), before);
        step(x.narrow(1, 0, before), *want);
        EXPECT_LT(max_difference(step(more, *s), step(more, *want)), kTolerance)
            << "after " << before << ", taking " << n << " back";
        s->rollback(0);
      }
    }
  }
  // one by one, and again after going on
  Box<SequenceState> s = state(3, 3), want = state(3);
  for (int64_t t = 0; t < 30; ++t) {
    step(x.narrow(1, t, 1), *s);
    if (t % 3) continue;
    step(wrong.narrow(1, t, 1), *s);
    step(wrong.narrow(1, t, 2), *s);
    s->rollback(2);
    s->rollback(1);
  }
  step(x.narrow(1, 0, 30), *want);
  EXPECT_LT(max_difference(step(more, *s), step(more, *want)), kTolerance);
}

TEST_P(States, TakingTooMuchBackIsRefusedInWords) {
  Box<SequenceState> s = state(2, 2);
  step(tokens(2, 60), *s);
  EXPECT_ERROR(s->rollback(61), StateError, "rollback(61): the state has seen 60 tokens");
  EXPECT_ERROR(s->rollback(-1), StateError, "rollback(-1)");
  const Tensor more = tokens(2, 2, 6);
  try {
    Box<SequenceState> other = s->clone();
    other->rollback(59);  // those that keep all their tokens can
    Box<SequenceState> want = state(2);
    step(tokens(2, 60).narrow(1, 0, 1), *want);
    EXPECT_LT(max_difference(step(more, *other), step(more, *want)), kTolerance);
  } catch (const StateError& e) {
    EXPECT_NE(std::string(e.what()).find(".keep = n"), std::string::npos) << e.what();
  }
  s->rollback(2);  // nothing was changed by those that failed
  Box<SequenceState> want = state(2);
  step(tokens(2, 60).narrow(1, 0, 58), *want);
  EXPECT_LT(max_difference(step(more, *s), step(more, *want)), kTolerance);
}

}  // namespace
}  // namespace dropin
