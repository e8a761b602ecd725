// States of step(): copies, choices of entries, tokens taken back, padding, and arguments that are
// used or refused, over every mixer of the registry.
#include <limits>

#include "dropin/registry/registry.h"
#include "dropin/sequence/longformer_attention.h"
#include "dropin/sequence/multihead_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::device;
using testing::max_difference;
using testing::random;

constexpr int64_t kWidth = 8, kRoom = 96;
constexpr double kTolerance = 1e-10;  // in float64; Hyena's transforms add some

// A member by name and options over embed_dim 8, and what its step() can be told.
struct Mixer {
  std::string label, name, options;
  bool positions = false;
};
void PrintTo(const Mixer& m, std::ostream* os) { *os << m.label; }

std::vector<Mixer> mixers() {
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
}

class States : public ::testing::TestWithParam<Mixer> {
 protected:
  void SetUp() override {
    manual_seed(3);
    module_ = make(GetParam().name, Json::parse(GetParam().options));
    module_->to(kFloat64);
    module_->to(device());
    module_->eval();
    std::uint64_t seed = 10;
    for (auto& [name, p] : module_->named_parameters())  // no bias stays 0
      p.add_(random(p.sizes(), kFloat64, ++seed), 0.1);
  }
  SequenceMixer& mixer() { return dynamic_cast<SequenceMixer&>(*module_); }
  Box<SequenceState> state(int64_t batch, int64_t keep = 0) {
    return mixer().init_state(batch, kRoom, {.keep = keep});
  }
  Tensor step(const Tensor& x, SequenceState& s, const StepArgs& args = {}) {
    return mixer().step(x, s, args);
  }

 private:
  no_grad guard_;
  Box<Module> module_;
};
INSTANTIATE_TEST_SUITE_P(Mixers, States, ::testing::ValuesIn(mixers()),
                         [](const auto& info) { return info.param.label; });

Tensor tokens(int64_t batch, int64_t n, std::uint64_t seed = 5) {
  return random({batch, n, kWidth}, kFloat64, seed);
}
Tensor mask_of(const std::vector<std::vector<int>>& rows) {
  std::vector<double> all;
  for (const auto& r : rows) all.insert(all.end(), r.begin(), r.end());
  return tensor(all, {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())})
      .to(kBool)
      .to(device());
}

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

TEST_P(States, WrongStepsAreRefusedInWordsAndChangeNothing) {
  Box<SequenceState> s = state(2), want = state(2);
  const Tensor x = tokens(2, 4);
  EXPECT_ERROR(step(tokens(3, 4), *s), ShapeError, "x_t has batch 3, the state 2");
  EXPECT_ERROR(step(zeros({2, 4, 7}), *s), ShapeError, "x_t is [2, 4, 7], expected [B, n, 8]");
  EXPECT_ERROR(step(zeros({2, 4, 8}, kInt64), *s), DTypeError, "x_t is int64");
  EXPECT_ERROR(step(x, *s, {.key_padding_mask = zeros({2, 4})}), DTypeError,
               "key_padding_mask is float32, expected bool");
  EXPECT_ERROR(step(x, *s, {.key_padding_mask = zeros({2, 3}, kBool)}), ShapeError,
               "key_padding_mask is [2, 3]");
  EXPECT_ERROR(mixer().init_state(2, 8, {.keep = -1}), OptionError, "keep is -1");
  struct Other : SequenceState {
    Other() : SequenceState(2) {}
  } other;
  EXPECT_ERROR(step(x, other), StateError, "step() was given the state of another layer type");
  EXPECT_ERROR(other.clone(), StateError, "cannot be copied");
  const Tensor at = zeros({2, 4}, {kInt64, device()});
  if (GetParam().positions) {
    EXPECT_ERROR(step(x, *s, {.positions = zeros({2, 4})}), DTypeError, "positions are float32");
    EXPECT_ERROR(step(x, *s, {.positions = zeros({4}, kInt64)}), ShapeError, "positions are [4]");
  } else {
    EXPECT_ERROR(step(x, *s, {.positions = at}), OptionError,
                 "positions is not supported: nothing here depends on positions");
  }
  if (GetParam().name == "LongformerAttention") {
    EXPECT_ERROR(step(x, *s, {.global_attention_mask = ones({2, 4}, kBool)}), StateError,
                 "the state was made without");
  } else {
    EXPECT_ERROR(step(x, *s, {.global_attention_mask = zeros({2, 4}, kBool)}), OptionError,
                 "global_attention_mask is not supported");
    EXPECT_ERROR(mixer().init_state(2, 8, {.global_tokens = true}), OptionError,
                 "global_tokens is not supported");
  }
  EXPECT_EQ(s->length(), 0);
  EXPECT_EQ(max_difference(step(x, *s), step(x, *want)), 0);
}

TEST_P(States, PositionsAreUsed) {
  if (!GetParam().positions) GTEST_SKIP() << "refused, see above";
  const Tensor x = tokens(2, 12), pad = mask_of({{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
                                                 {1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}});
  auto run = [&](const std::vector<double>& first, const std::vector<double>& second) {
    Box<SequenceState> s = state(2);
    std::vector<double> all = first;
    all.insert(all.end(), second.begin(), second.end());
    const Tensor at = tensor(all, {2, 12}, kInt64).to(device());
    Tensors out;
    for (const int64_t t : {0, 5, 6, 7})
      out.push_back(step(x.narrow(1, t, t ? (t == 7 ? 5 : 1) : 5), *s,
                         {.key_padding_mask = pad.narrow(1, t, t ? (t == 7 ? 5 : 1) : 5),
                          .positions = at.narrow(1, t, t ? (t == 7 ? 5 : 1) : 5)}));
    return concat(out, 1);
  };
  const std::vector<double> counted{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
      real{0, 0, 0, 0, 1, 0, 2, 3, 4, 5, 6, 7}, gap{0, 1, 2, 3, 4, 5, 20, 21, 22, 23, 24, 25},
      far{9, 9, 9, 100, 101, 9, 102, 103, 104, 105, 106, 107};
  Box<SequenceState> s = state(2);
  const Tensor want = step(x, *s, {.key_padding_mask = pad});
  EXPECT_LT(max_difference(run(counted, real), want), kTolerance) << "as step() counts itself";
  const Tensor moved = run(counted, far);  // rotary positions and ALiBi are relative
  EXPECT_LT(max_difference(moved, want), 1e-8);
  EXPECT_GT(max_difference(run(gap, real)[0], want[0]), 1e-6) << "a gap changes distances";
}

// Global tokens in rows of different length: each row as alone, also chosen and taken back.
TEST(StatesOfLongformer, GlobalTokensBelongToTheirRow) {
  no_grad guard;
  manual_seed(3);
  LongformerAttention m(
      {.embed_dim = 8, .num_heads = 2, .window = 2, .causal = true, .rope = "half"});
  m.to(kFloat64);
  m.to(device());
  std::uint64_t seed = 10;
  for (auto& [name, p] : m.named_parameters()) p.add_(random(p.sizes(), kFloat64, ++seed), 0.3);
  const Tensor x = tokens(3, 14), wrong = tokens(3, 3, 8);
  Tensor pad = zeros({3, 14}, kBool), global = zeros({3, 14}, kBool);
  const int64_t left[] = {0, 4, 9};
  for (int64_t b = 0; b < 3; ++b) {
    pad[b].narrow(0, 0, left[b]).fill_(1);
    global[b].narrow(0, 3, 1).fill_(1);  // padding wins
    global[b].narrow(0, 10, 2).fill_(1);
  }
  pad = pad.to(device());
  global = global.to(device());
  auto args = [&](int64_t from, int64_t n) {
    return StepArgs{.key_padding_mask = pad.narrow(1, from, n),
                    .global_attention_mask = global.narrow(1, from, n)};
  };
  Box<SequenceState> s = m.init_state(3, 20, {.global_tokens = true});
  Tensors out{m.step(x.narrow(1, 0, 6), *s, args(0, 6))};
  m.step(wrong, *s, {.global_attention_mask = ones({3, 3}, {kBool, device()})});
  s->rollback(3);
  out.push_back(m.step(x.narrow(1, 6, 8), *s, args(6, 8)));
  const Tensor y = concat(out, 1), more = tokens(2, 4, 9);
  const Tensor after = m.step(more, *s->select({2, 1}));
  for (int64_t b = 0; b < 3; ++b) {
    Box<SequenceState> alone = m.init_state(1, 20, {.global_tokens = true});
    auto row = [&](const Tensor& t) { return t.narrow(0, b, 1).narrow(1, left[b], 14 - left[b]); };
    EXPECT_LT(
        max_difference(m.step(row(x), *alone, {.global_attention_mask = row(global)}), row(y)),
        kTolerance)
        << "row " << b;
    if (b == 0) continue;
    EXPECT_LT(max_difference(m.step(more.narrow(0, 2 - b, 1), *alone), after.narrow(0, 2 - b, 1)),
              kTolerance)
        << "row " << b << " chosen";
  }
}

// --- arguments of forward()

std::vector<const ComponentInfo*> members() {
  std::vector<const ComponentInfo*> r;
  for (const ComponentInfo& c : registry().all())
    if (c.family == "SequenceMixer" && c.kind == ComponentKind::Module) r.push_back(&c);
  return r;
}
class Arguments : public ::testing::TestWithParam<const ComponentInfo*> {};
INSTANTIATE_TEST_SUITE_P(Registry, Arguments, ::testing::ValuesIn(members()),
                         [](const auto& info) { return info.param->name; });

// Changes one argument and looks: the outputs change, or an OptionError names member and argument.
TEST_P(Arguments, AreUsedOrRefusedInWords) {
  no_grad guard;
  for (const bool causal : {false, true}) {
    Json o = sample_options(*GetParam());
    for (const FieldInfo& f : GetParam()->options)
      if (f.name == "causal")
        o.set("causal", causal);
      else if (f.name == "window" && f.type == "int")
        o.set("window", 1);  // less than the length
    manual_seed(2);
    Box<Module> module = make(GetParam()->name, o);
    module->to(kFloat64);
    module->to(device());
    module->eval();
    SequenceMixer& m = dynamic_cast<SequenceMixer&>(*module);
    const Tensor x = random({2, 9, 8});
    Tensor pad = zeros({2, 9}, kBool), square = zeros({9, 9}, kBool), four = zeros({2, 1, 9, 9});
    pad.narrow(1, 3, 2).fill_(1);
    square.narrow(1, 3, 1).fill_(1);
    four.narrow(3, 3, 1).fill_(-2);
    const std::pair<const char*, Tensor> all[] = {{"key_padding_mask", pad},
                                                  {"attn_mask", square},
                                                  {"attn_mask", four},
                                                  {"global_attention_mask", pad}};
    const Tensor want = m.forward(x);
    for (const auto& [name, mask] : all) {
      SequenceArgs args;
      const std::string which = name;
      (which == "attn_mask"          ? args.attn_mask
       : which == "key_padding_mask" ? args.key_padding_mask
                                     : args.global_attention_mask) = mask.to(device());
      for (const bool named : {false, true}) {
        try {
          const Tensor y = named ? m.call({{"x", x}, {name, mask.to(device())}}).get("y", "test")
                                 : m.forward(x, args);
          EXPECT_GT(max_difference(y, want), 1e-6) << name << " was dropped";
        } catch (const Error& e) {
          const std::string text = e.what();
          EXPECT_NE(text.find(GetParam()->made_as), std::string::npos) << text;
          EXPECT_NE(text.find(name), std::string::npos) << text;
        }
      }
    }
  }
}

// attn_mask of the windowed members against the same attention written with one mask more.
TEST(ArgumentsOfLongformer, AMaskEqualsAttentionWithBoth) {
  no_grad guard;
  for (const bool causal : {false, true})
    for (const bool global : {false, true})
      for (const bool additive : {false, true}) {
        manual_seed(4);
        LongformerAttention m({.embed_dim = 8, .num_heads = 2, .window = 2, .causal = causal});
        MultiheadAttention full({.embed_dim = 8, .num_heads = 2});
        StateDict weights;
        for (const auto& [name, t] : m.state_dict())
          if (name.find("global") == std::string::npos) weights.set(name, t);
        full.load_state_dict(weights);
        for (Module* each : std::initializer_list<Module*>{&m, &full})
          each->to(kFloat64), each->to(device());
        const Tensor x = random({2, 12, 8});
        Tensor seen = zeros({2, 1, 12, 12}, kBool), flags = zeros({2, 12}, kBool);
        flags[0].narrow(0, 3, 1).fill_(1);
        flags[1].narrow(0, 6, 2).fill_(1);
        for (int64_t b = 0; b < 2; ++b)
          for (int64_t i = 0; i < 12; ++i)
            for (int64_t j = 0; j < 12; ++j) {
              const bool far = std::abs(i - j) > 2, g = b ? j == 6 || j == 7 : j == 3,
                         q = b ? i == 6 || i == 7 : i == 3;
              seen.data<bool>()[(b * 12 + i) * 12 + j] =
                  (causal && j > i) || (far && !(global && (g || q)));
            }
        Generator gen(9);
        Tensor mask = rand({2, 2, 12, 12}, kFloat64, &gen);
        mask = additive ? mask * 3 : mask < 0.3;
        if (!additive) mask.select(3, 0).fill_(0);
        SequenceArgs args{.attn_mask = mask.to(device())};
        if (global) args.global_attention_mask = flags.to(device());
        const double inf = std::numeric_limits<double>::infinity();
        const Tensor both = additive ? where(seen, -inf, mask) : logical_or(seen, mask);
        // a fresh layer's global projections are copies of the local ones
        EXPECT_LT(max_difference(m(x, args), full(x, {.attn_mask = both.to(device())})), 1e-12)
            << causal << global << additive;
      }
}

}  // namespace
}  // namespace dropin
