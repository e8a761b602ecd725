#include "dropin/generation/mbr_decode.h"
#include "dropin/generation/t_stitch.h"
#include "registry/lists.h"

namespace dropin {

namespace {

NamedTensors named(const Choice& c) {
  NamedTensors r{{"index", c.index}, {"scores", c.scores}};
  if (c.order.defined()) r.set("order", c.order);
  if (c.utilities.defined()) r.set("utilities", c.utilities);
  if (c.evaluated.defined()) r.set("evaluated", c.evaluated);
  return r;
}

Candidates candidates_of(const Arguments& in) {
  return {in.find("candidates"),    in.find("lengths"),
          in.find("references"),    in.find("reference_lengths"),
          in.find("weights"),       in.find("log_weights"),
          in.find("embeddings"),    in.find("reference_embeddings"),
          in.find("token_weights"), in.find("reference_token_weights"),
          in.find("utilities")};
}

int64_t group_size(const SampleSpec& s) {
  static constexpr int64_t kCandidates[] = {9, 16, 64, 256};
  return s.length >= 0 ? s.length : s.of(kCandidates);
}
// Sequences of few ids, of every length.
Sample sequences(const SampleSpec& s) {
  const int64_t n = group_size(s), width = s.size ? 64 : 12;
  SampleSpec other = s;
  other.seed += 1;
  return {{{"candidates", s.integers(4, {n, width})}, {"lengths", other.integers(width + 1, {n})}},
          {},
          n};
}
Sample mbr_sample(const MbrDecodeOptions& o, const SampleSpec& s) {
  Sample r = sequences(s);
  const int64_t n = group_size(s), width = s.size ? 64 : 6;
  SampleSpec other = s;
  other.seed += 2;
  if (o.utility == "matrix") r.inputs = {{"utilities", s.normal({n, n})}};
  if (o.utility == "cosine") r.inputs = {{"embeddings", s.normal({n, width})}};
  if (o.utility == "bertscore")
    r.inputs = {{"embeddings", s.normal({n, 5, width})},
                {"lengths", other.integers(6, {n})},
                {"token_weights", exp(other.normal({n, 5}))}};
  r.inputs.set("log_weights", other.normal({n}));
  return r;
}

void register_selection(Registry& r) {
  constexpr const char* kCrowd = "Suzgun, Melas-Kyriazi, Jurafsky 2022, arXiv 2211.07634";
  r.add_family({.name = "CandidateSelection",
                .call = "candidates [N, L] int64, lengths [N] int64 -> index [], scores [N]"});
  r.add(FunctionInfo<NoOptions>{
      .name = "majority_vote",
      .family = "CandidateSelection",
      .summary = "the candidate that occurs most often",
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return named(majority_vote(in["candidates"], in["lengths"], in.find("weights")));
      },
      .inputs = [](const auto&, const SampleSpec& s) { return sequences(s); }});
  r.add(FunctionInfo<MostLikelyOptions>{
      .name = "most_likely",
      .family = "CandidateSelection",
      .summary = "the candidate of the highest log-probability",
      .call = [](const MostLikelyOptions& o, const Arguments& in) -> NamedTensors {
        in.find("candidates");  // part of the family's call; log_probs say all
        return named(most_likely(in["log_probs"], in.find("lengths"), o));
      },
      .inputs =
          [](const auto&, const SampleSpec& s) {
            Sample r = sequences(s);
            r.inputs.set("log_probs", s.normal({group_size(s)}));
            return r;
          },
      .examples = {R"({"normalize": "length"})"}});
  r.add(FunctionInfo<MbrDecodeOptions>{
      .name = "mbr_decode",
      .family = "CandidateSelection",
      .summary = "the candidate that agrees most with the others",
      .replaces = "majority_vote",
      .paper = kCrowd,
      .call = [](const MbrDecodeOptions& o, const Arguments& in) -> NamedTensors {
        DROPIN_CHECK(in.all().size() > 0, StateError,
                     "mbr_decode: there is no input, expected candidates and lengths, embeddings "
                     "or utilities");
        return named(mbr_decode(candidates_of(in), o));
      },
      .inputs = mbr_sample,
      .examples = {R"({"utility": "bleu", "nbest": 3, "return_utilities": true})",
                   R"({"utility": "bertscore"})", R"({"utility": "cosine"})",
                   R"({"utility": "matrix", "exclude_self": true})",
                   R"({"utility": "chrf", "approximate": "aggregate", "exclude_self": true})",
                   R"({"utility": "edit", "lazy": true})",
                   R"({"approximate": "coarse", "keep": 3})",
                   R"({"approximate": "confidence", "schedule": [3, 5]})"}});
}

// A sampler of one denoiser.
void add_sampler(Registry& r, const char* name, const char* sampler, const char* summary) {
  Json o = Json::object(), whole = Json::array();
  whole.push_back(1.0);
  o.set("sampler", sampler);
  o.set("fractions", whole);
  r.add_preset(name, "TStitchSampler", o, summary);
}

void register_diffusion(Registry& r) {
  r.add<TStitchSampler>();
  add_sampler(r, "DDPMSampler", "ddpm", "ancestral sampling by one denoiser");
  add_sampler(r, "DDIMSampler", "ddim", "deterministic sampling by one denoiser");
  add_sampler(r, "DPMSolverSampler", "dpm_solver_pp_2m", "two-step solver by one denoiser");
  r.add_family({.name = "SamplingPlan", .call = "-> timesteps, model [num_steps] int64"});
  r.add(FunctionInfo<TStitchOptions>{
      .name = "TStitchSchedule",
      .family = "SamplingPlan",
      .summary = "which denoiser takes which step",
      .paper = TStitchSampler::kPaper,
      .call = [](const TStitchOptions& o, const Arguments&) -> NamedTensors {
        const TStitchPlan p = TStitchSchedule(o);
        return {{"timesteps", tensor(p.timesteps)}, {"model", tensor(p.model)}};
      },
      .inputs = [](const auto&, const SampleSpec&) { return Sample{}; },
      .examples = {R"({"num_steps": 7, "rule": "step", "fractions": [0.3, 0.3, 0.4]})"}});
}

}  // namespace

void register_decoders(Registry& r);

void register_generation(Registry& r) {
  register_selection(r);
  register_diffusion(r);
  register_decoders(r);
}

}  // namespace dropin
