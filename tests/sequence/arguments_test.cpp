// Arguments of forward() that are used or refused, over every mixer of the registry.
#include <limits>

#include "dropin/registry/registry.h"
#include "dropin/sequence/longformer_attention.h"
#include "dropin/sequence/multihead_attention.h"
#include "sequence/mixers.h"
#include "support.h"

namespace dropin {
namespace {

using testing::device;
using testing::max_difference;
using testing::random;

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
