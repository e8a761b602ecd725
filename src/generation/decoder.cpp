#include "dropin/generation/decoder.h"

#include "generation/decoding.h"

namespace dropin {

using generation::Hypothesis;
using generation::Limits;
using generation::Rows;

namespace {

constexpr int64_t kDecodeVocab[] = {12, 64, 256, 512}, kDecodeRows[] = {3, 16, 64, 256};
constexpr int64_t kDecodePrompt = 4;

Sample decoder_sample(const Json& options, const SampleSpec& s) {
  const int64_t batch = s.batch >= 0 ? s.batch : s.of(kDecodeRows);
  const Json* base = options.find("base");
  const Json* vocab = base && base->is_object() ? base->find("vocab_size") : nullptr;
  const int64_t v = vocab ? vocab->as_int() : s.of(kDecodeVocab);
  const int64_t new_tokens = option_or(options, {"max_new_tokens"}, 6);
  const int64_t returns = option_or(options, {"num_return"}, 1);
  SampleSpec other = s;
  other.seed += 1;
  const int64_t places = kDecodePrompt + new_tokens;
  const Tensor z = other.normal(returns > 1 ? Shape{batch, returns, places} : Shape{batch, places});
  return {{{"prompt", s.integers(v, {batch, kDecodePrompt})},
           {"prompt_lengths", other.integers(kDecodePrompt, {batch}) + 1},
           {"uniforms", sigmoid(z)}}};
}

}  // namespace

FamilyInfo Decoder::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call =
      "prompt [B, P] int64, prompt_lengths [B] -> tokens [B, max_new_tokens], lengths, scores [B]";
  f.options = [](int size) {
    Json base =
        json_of({{"vocab_size", SampleSpec{.size = size}.of(kDecodeVocab)}, {"embed_dim", 8}});
    Json heads = base, o = Json::object();
    base.set("type", "TableLM");
    heads.set("type", "HydraHeads");
    o.set("base", base);
    o.set("heads", heads);
    return o;
  };
  f.inputs = decoder_sample;
  f.bad_inputs = [](const Json&) {
    return std::vector<BadInput>{{{{"prompt", zeros({2, 4})}}},
                                 {{{"prompt", zeros({4}, kInt64)}}},
                                 {{{"prompt", zeros({2, 0}, kInt64)}}},
                                 {{{"prompt", full({2, 4}, 1000000, kInt64)}}}};
  };
  f.traits.integer_inputs = true;
  return f;
}

void Decoder::set_base(Box<LanguageModel> base) {
  DROPIN_CHECK(base, OptionError, type(), ": base is null, expected a model");
  base_ = Child<LanguageModel>(add_child("base", Box<Module>(base.release())));
}
Box<LanguageModel> Decoder::base_like() const {
  Box<Module> m = base().make_like();
  return Box<LanguageModel>(dynamic_cast<LanguageModel*>(m.release()));
}

NamedTensors Decoder::call(const NamedTensors& in) {
  DecodeArgs args;
  args.prompt = in.get("prompt", type());
  args.prompt_lengths = in.find("prompt_lengths");
  args.uniforms = in.find("uniforms");
  args.constraints = Constraints::of(in, type());
  const Decoded d = generate(args);
  NamedTensors out{{"tokens", d.tokens}, {"lengths", d.lengths}};
  if (d.scores.defined()) out.set("scores", d.scores);
  if (d.satisfied.defined()) out.set("satisfied", d.satisfied);
  if (d.accept_lengths.defined()) out.set("accept_lengths", d.accept_lengths);
  return out;
}

// --- greedy

namespace {

Limits greedy_limits(const GreedyOptions& o, const LanguageModel& base) {
  const Limits l = generation::limits_of("GreedyDecoder", o, base);
  DROPIN_CHECK(o.num_return == 1, OptionError, l.who, ": num_return is ", o.num_return,
               ", expected 1: there is one result");
  return l;
}

}  // namespace

GreedyDecoder::GreedyDecoder(const GreedyOptions& o) : DecoderOf(o) { greedy_limits(o, base()); }
GreedyDecoder::GreedyDecoder(Box<LanguageModel> model, const GreedyOptions& o)
    : DecoderOf(std::move(model), o) {
  greedy_limits(o, base());
}

Decoded GreedyDecoder::generate(const DecodeArgs& args) {
  no_grad guard;
  const Limits l = greedy_limits(options_, base());
  generation::refuse_constraints(l, args);
  const auto prompts = generation::read_prompts(l, args);
  const auto choose = [&l](const Rows&, const std::vector<Hypothesis*>&,
                           std::vector<std::vector<double>>& lp) {
    std::vector<int64_t> r;
    for (const auto& row : lp) r.push_back(generation::best_index(row.data(), l.vocab));
    return r;
  };
  return generation::decoded(l, generation::one_by_one(l, base(), prompts, choose), false,
                             args.prompt.device());
}

}  // namespace dropin
