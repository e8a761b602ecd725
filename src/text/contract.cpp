#include "dropin/text/contract.h"

namespace dropin {

FamilyInfo TextSegmenter::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "text [C] int64 code points -> segments [S, 2] int64";
  f.options = [](int size) {  // of members that are models
    const int64_t width = size < 3 ? 64 : 256;
    return json_of({{"vocab_size", 5000},
                    {"embed_dim", width},
                    {"num_heads", 4},
                    {"mlp_dim", 4 * width},
                    {"num_layers", 3},
                    {"max_positions", 514}});
  };
  f.inputs = [](const Json&, const SampleSpec& s) {
    static constexpr int64_t kLengths[] = {60, 1024, 16384, 262144};
    const int64_t n = s.length >= 0 ? s.length : s.of(kLengths);
    return Sample{{{"text", s.integers(96, {n}) + 32}}, {"text"}, n};
  };
  f.bad_inputs = [](const Json&) {
    return std::vector<BadInput>{{{{"text", zeros({2, 3}, kInt64)}}}};
  };
  f.traits.integer_inputs = f.traits.no_batch = true;
  return f;
}

NamedTensors TextSegments::named() const {
  NamedTensors r;
  if (probs.defined()) r.set("probs", probs);
  r.set("segments", segments);
  if (paragraph.defined()) r.set("paragraph", paragraph);
  return r;
}

NamedTensors TextSegmenter::call(const NamedTensors& in) {
  const TextTokens tokens{in.find("ids"), in.find("offsets")};
  return forward(in.get("text", type()), tokens).named();
}

}  // namespace dropin
