// The second part of the room's list: decoders, and what drafts for them.
#include "dropin/generation/assisted.h"
#include "dropin/generation/neurologic.h"
#include "dropin/generation/speculative.h"
#include "registry/lists.h"

namespace dropin {

namespace {

const Json& small_tree() {
  static const Json choices = Json::parse("[[0], [1], [0, 0], [0, 1], [1, 0], [0, 0, 0]]");
  return choices;
}

Tensor rows_of_numbers(const std::vector<std::vector<int64_t>>& rows) {
  std::size_t width = 0;
  for (const auto& r : rows) width = std::max(width, r.size());
  std::vector<int64_t> flat;
  for (auto r : rows) {
    r.resize(width, -1);
    flat.insert(flat.end(), r.begin(), r.end());
  }
  return tensor(flat, {static_cast<int64_t>(rows.size()), static_cast<int64_t>(width)});
}

NamedTensors tree_tensors(const DraftTree& t) {
  std::vector<int64_t> lengths;
  for (const auto& p : t.paths) lengths.push_back(static_cast<int64_t>(p.size()) - 1);
  return {{"parent", tensor(t.parent)},        {"rank", tensor(t.rank)},
          {"depth", tensor(t.depth)},          {"mask", t.mask()},
          {"paths", rows_of_numbers(t.paths)}, {"path_lengths", tensor(lengths)}};
}

Sample verify_sample(const VerifyOptions& o, const SampleSpec& s) {
  const DraftTree t = draft_tree(o.choices);
  const int64_t vocab = s.size ? 1024 : 11;
  SampleSpec other = s;
  other.seed += 1;
  Sample r{{{"logits", s.normal({t.size(), vocab})}, {"tokens", s.integers(vocab, {t.size()})}}};
  if (o.acceptance == "sample")
    r.inputs.set("uniforms", sigmoid(other.normal({t.max_depth() + 1})));
  return r;
}

Sample loss_sample(const DraftHeadsLossOptions& o, const SampleSpec& s) {
  const int64_t heads = 2, batch = s.batch >= 0 ? s.batch : 2,
                length = s.length >= 0 ? s.length : 6;
  const int64_t vocab = s.size ? 512 : 7, width = s.size ? 64 : 4;
  SampleSpec other = s;
  other.seed += 1;
  Sample r{{{"logits", s.normal({heads, batch, length, vocab})},
            {"labels", s.integers(vocab, {batch, length})}}};
  if (o.reconstruction_weight != 0) {
    r.inputs.set("head_hidden", s.normal({heads, batch, length, width}));
    r.inputs.set("base_hidden", other.normal({batch, length, width}));
  }
  return r;
}

void register_drafting(Registry& r) {
  constexpr const char* kPaper = "Ankner et al. 2024, arXiv 2402.05109";
  r.add<MedusaHeads>();
  r.add<HydraHeads>();
  r.add_family({.name = "DraftTree",
                .call = "-> parent, rank, depth [N], mask [N, N], paths [rows, depth + 1], "
                        "path_lengths [rows]"});
  r.add(FunctionInfo<DraftTreeOptions>{
      .name = "draft_tree",
      .family = "DraftTree",
      .summary = "the nodes, the mask and the paths of a tree of drafts",
      .paper = kPaper,
      .call = [](const DraftTreeOptions& o, const Arguments&) -> NamedTensors {
        return tree_tensors(draft_tree(o.choices));
      },
      .inputs = [](const auto&, const SampleSpec&) { return Sample{}; },
      .examples = {R"({"choices": [[0], [1], [0, 0]]})"}});
  r.add_family({.name = "DraftVerification",
                .call = "tokens [N] int64, logits [N, V] -> path [a + 1], next_token []"});
  Json verified = Json::object();
  verified.set("choices", small_tree());
  r.add(FunctionInfo<VerifyOptions>{
      .name = "verify_draft_tree",
      .family = "DraftVerification",
      .summary = "which drafts of a tree the base takes",
      .paper = kPaper,
      .call = [](const VerifyOptions& o, const Arguments& in) -> NamedTensors {
        const Tensor tokens = in["tokens"];
        const Verified v =
            verify_draft_tree(draft_tree(o.choices), tokens, in["logits"], o, in.find("uniforms"));
        return {{"path", tensor(v.path).to(tokens.device())},
                {"next_token", scalar(v.next_token, kInt64).to(tokens.device())}};
      },
      .inputs = verify_sample,
      .sample = verified.dump(),
      .examples = {R"({"acceptance": "typical", "temperature": 0.7})",
                   R"({"acceptance": "sample", "temperature": 1})"}});
  r.add_family({.name = "DraftLoss",
                .call = "logits [H, B, L, V], labels [B, L] int64, ... -> loss [], per_head [H]"});
  r.add(FunctionInfo<DraftHeadsLossOptions>{
      .name = "draft_heads_loss",
      .family = "DraftLoss",
      .summary = "what draft heads learn from labels and from their base",
      .paper = kPaper,
      .call = [](const DraftHeadsLossOptions& o, const Arguments& in) -> NamedTensors {
        const DraftHeadsLoss l =
            draft_heads_loss(in["logits"], in["labels"], o, in.find("base_logits"),
                             in.find("head_hidden"), in.find("base_hidden"));
        return {{"loss", l.loss}, {"per_head", l.per_head}};
      },
      .inputs = loss_sample,
      .examples = {R"({"reconstruction_weight": 0.5, "head_decay": 0.8})"},
      .traits = [](Traits& t) { t.no_batch = true; }});
}

}  // namespace

void register_decoders(Registry& r) {
  r.add<GreedyDecoder>();
  r.add<BeamSearchDecoder>();
  r.add<SamplingDecoder>();
  r.add<NeuroLogicDecoder>();
  r.add<NeuroLogicAStarDecoder>();
  register_drafting(r);
  r.add<SpeculativeDecoder>();
  r.add<AssistedDecoder>();
}

}  // namespace dropin
