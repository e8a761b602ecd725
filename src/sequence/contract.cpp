#include "dropin/sequence/contract.h"

namespace dropin {

namespace {
constexpr int64_t kLengths[] = {9, 64, 256, 1024, 4096, 16384};

std::vector<BadInput> bad_sequences(const Json& o) {
  const int64_t width = option_or(o, {"embed_dim", "d_model"}, 8);
  const Tensor x = zeros({2, 8, width});
  return {{{{"x", zeros({2, 5})}}},
          {{{"x", zeros({2, 8, width + 1})}}},
          {{{"x", x}, {"key_padding_mask", zeros({2, 8})}},
           "key_padding_mask is float32, expected bool"},
          {{{"x", x}, {"key_padding_mask", zeros({2, 7}, kBool)}}, "key_padding_mask is [2, 7]"}};
}

// A mixer that hides the future in place of one that sees it, or the reverse, is another model.
std::string causality_conflict(const Module& old, const Module& fresh, const Json& named) {
  const auto& was = dynamic_cast<const SequenceMixer&>(old);
  const auto& is = dynamic_cast<const SequenceMixer&>(fresh);
  const Json* asked = named.find("causal");
  auto words = [](bool causal) { return causal ? "hides the future" : "sees the future"; };
  if (asked && asked->is_bool()) {
    if (asked->as_bool() == is.causal()) return "";
    return std::string("it ") + words(is.causal()) + " always; causal = " + asked->dump() +
           " is not to be had";
  }
  if (was.causal() == is.causal()) return "";
  return std::string("it ") + words(is.causal()) + ", and the one it replaces " +
         words(was.causal()) +
         "; where that is meant, name it: {\"causal\": " + (is.causal() ? "true}" : "false}");
}
}  // namespace

FamilyInfo SequenceMixer::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [B, L, D], key_padding_mask [B, L] bool -> y [B, L, D]";
  f.sizes = 5;
  f.growing = true;
  f.peer_sizes = 4;
  f.sweeps = {{"window", {32, 64, 128, 256, 512, 1024}, 4}};  // time should follow it
  f.options = [](int size) {
    const int64_t width = size ? 256 : 8;
    Json grid = Json::array();  // of patches, about as many
    for (int i = 0; i < 2; ++i) grid.push_back(int64_t{4} << size);
    Json o = json_of({{"embed_dim", width},
                      {"d_model", width},
                      {"input_size", width},
                      {"output_size", width},
                      {"memory_size", size ? 32 : 4},
                      {"context_size", size ? 4 : 3},
                      {"qk_dim", size ? 16 : 3},
                      {"num_heads", size ? 4 : 2},
                      {"max_len", size ? kLengths[size] : 12},
                      {"num_frames", 1},
                      {"l_max", size ? kLengths[size] : 16}});
    o.set("grid", grid);
    if (size) o.set("max_seq_len", kLengths[size]);  // of tables as long as the sequence
    return o;
  };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    const int64_t length = s.length >= 0 ? s.length : s.of(kLengths),
                  batch = s.batch >= 0 ? s.batch : (s.size ? 1 : 2);
    return Sample{{{"x", s.normal({batch, length,
                                   option_or(o, {"embed_dim", "d_model", "input_size"}, 256)})}}};
  };
  f.bad_inputs = bad_sequences;
  f.conflict = causality_conflict;
  f.swap_words = {"causal"};
  f.label = [](const Shape& x) { return "L:" + std::to_string(x[1]); };
  return f;
}

Box<SequenceState> SequenceMixer::init_state(int64_t, int64_t, const StateOptions&) {
  fail<OptionError>({type(), ": these options have no step(); a decoding member is causal"});
}
Tensor SequenceMixer::step(const Tensor&, SequenceState&, const StepArgs&) {
  fail<OptionError>({type(), ": these options have no step(); a decoding member is causal"});
}

SequenceArgs SequenceMixer::args_of(const NamedTensors& in) {
  return {.key_padding_mask = in.find("key_padding_mask"),
          .attn_mask = in.find("attn_mask"),
          .global_attention_mask = in.find("global_attention_mask")};
}
NamedTensors SequenceMixer::call(const NamedTensors& in) {
  return {{"y", (*this)(in.get("x", type()), args_of(in))}};
}

}  // namespace dropin
