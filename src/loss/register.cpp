#include "dropin/loss/contrastive.h"
#include "dropin/loss/ctc.h"
#include "dropin/loss/geodesic.h"
#include "dropin/loss/guidance.h"
#include "dropin/loss/mixup.h"
#include "dropin/loss/sequence_loss.h"
#include "dropin/loss/tunable.h"
#include "registry/lists.h"

namespace dropin {

void register_video_losses(Registry& r);  // register_video.cpp

namespace {

// logits [2, L, V] and ids of as many positions.
Sample sequences(const SampleSpec& s) {
  static constexpr int64_t kLengths[] = {6, 16, 64, 128}, kWords[] = {9, 512, 8192, 32768};
  const int64_t length = s.length >= 0 ? s.length : s.of(kLengths), batch = s.batch >= 0 ? s.batch
                                                                            : s.size     ? 8
                                                                                         : 2;
  return {{{"logits", s.normal({batch, length, s.of(kWords)})},
           {"target", s.integers(s.of(kWords), {batch, length})}}};
}

void register_sequence_losses(Registry& r) {
  r.add_family(
      {.name = "SequenceLoss", .call = "logits [B, T, V], target [B, T] int64 -> loss []"});
  r.add(FunctionInfo<SequenceCrossEntropyOptions>{
      .name = "cross_entropy",
      .family = "SequenceLoss",
      .summary = "mean negative log-probability of each target token",
      .call = [](const SequenceCrossEntropyOptions& o, const Arguments& in) -> NamedTensors {
        const Tensor logits = in["logits"], target = in["target"];
        DROPIN_CHECK(logits.dim() == 3 && logits.numel() > 0, ShapeError,
                     "cross_entropy: logits is ", logits.sizes(),
                     ", expected [B, T, V] with a token at least");
        return {{"loss", cross_entropy(logits.transpose(1, 2), target, {}, "mean", o.ignore_index,
                                       o.label_smoothing)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return sequences(s); },
      .examples = {R"({"label_smoothing": 0.1, "ignore_index": 3})"}});
  r.add(FunctionInfo<EditInvariantSequenceLossOptions>{
      .name = "EditInvariantSequenceLoss",
      .family = "SequenceLoss",
      .summary = "asks that each target n-gram appears somewhere in the output",
      .replaces = "cross_entropy",
      .paper = "Liu et al. 2022, arXiv 2106.15078",
      .call = [](const EditInvariantSequenceLossOptions& o, const Arguments& in) -> NamedTensors {
        EditInvariantArgs args;
        args.target_padding_mask = in.find("target_padding_mask");
        args.output_padding_mask = in.find("output_padding_mask");
        args.gumbel = in.find("gumbel");
        const EditInvariantLosses l =
            EditInvariantSequenceLoss(in["logits"], in["target"], args, o);
        return {{"loss", l.loss}, {"ngram_loss", l.ngram_loss}, {"ce_loss", l.ce_loss}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return sequences(s); },
      .examples = {R"({"position": "logsumexp", "ngrams": [2, 0, -1]})",
                   R"({"position": "softmax", "ngrams": [1, 2, 3], "weights": [1, 0, 2],
                       "ce_factor": 0.5, "label_smoothing": 0.1, "tau": 0.5})"}});
}

void register_alignment(Registry& r) {
  r.add_family({.name = "AlignmentLoss",
                .call = "log_probs [T, N, C], targets [N, S], input_lengths [N], target_lengths "
                        "[N] -> loss"});
  r.add(FunctionInfo<CTCLossOptions>{
      .name = "ctc_loss",
      .family = "AlignmentLoss",
      .summary = "minus the log-probability of a target under all its alignments",
      .paper = "Graves et al. 2006, ICML",
      .call = [](const CTCLossOptions& o, const Arguments& in) -> NamedTensors {
        return {{"loss", CTCLoss(o)(in["log_probs"], in["targets"], in["input_lengths"],
                                    in["target_lengths"])}};
      },
      .inputs = [](const auto&, const SampleSpec& s) -> Sample {
        static constexpr int64_t kSteps[] = {7, 32, 128, 512}, kClasses[] = {5, 32, 64, 128};
        const int64_t steps = s.length >= 0 ? s.length : s.of(kSteps), classes = s.of(kClasses),
                      batch = s.size ? 8 : 2, labels = (steps + 1) / 3;
        return {{{"log_probs", log_softmax(s.normal({steps, batch, classes}), 2)},
                 {"targets", s.integers(classes - 1, {batch, labels}) + 1},
                 {"input_lengths", full({batch}, steps, kInt64)},
                 {"target_lengths", full({batch}, labels, kInt64)}},
                {"log_probs", "targets", "input_lengths", "target_lengths"}};
      },
      .examples = {R"({"reduction": "sum", "zero_infinity": true})"}});
}

constexpr const char* kMixupMP = "Wu, Williamson 2024, arXiv 2403.12729";

// Rows of four numbers, of which pairs are mixed; lam from 0 to 1.
Sample mixed_rows(const SampleSpec& s, bool logits) {
  const int64_t n = s.size ? 1024 : 5, m = s.size ? 1024 : 3, classes = s.size ? 1000 : 4;
  SampleSpec other = s;
  other.seed += 1;
  const Tensor lam = sigmoid(s.normal({m}));
  if (logits)
    return {{{"logits", s.normal({n + m, classes})},
             {"target", s.integers(classes, {n})},
             {"target_a", s.integers(classes, {m})},
             {"target_b", other.integers(classes, {m})},
             {"lam", lam.detach()},
             {"weight", sigmoid(other.normal({n}))}},
            {"logits", "target", "target_a", "target_b", "lam", "weight"}};
  return {{{"x", s.normal({n, 3, 4})},
           {"target", s.integers(classes, {n})},
           {"pick", s.integers(n, {m})},
           {"partner", s.integers(m, {m})},
           {"lam", lam}},
          {"x", "target", "pick", "partner", "lam"}};
}

void register_mixup(Registry& r) {
  r.add(FunctionInfo<NoOptions>{
      .name = "MixupBatch",
      .family = "Function",
      .summary = "real rows, then rows mixed of pairs of them",
      .paper = kMixupMP,
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        const MixupRows y =
            mixup_batch(in["x"], in["target"], in["pick"], in["partner"], in["lam"]);
        return {{"x", y.x}, {"target_a", y.target_a}, {"target_b", y.target_b}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) { return mixed_rows(s, false); },
      .traits = [](Traits& t) { t.surrogate_gradient = true; }});  // lam has none
  r.add(FunctionInfo<MixupMPLossOptions>{
      .name = "MixupMPLoss",
      .family = "Function",
      .summary = "cross-entropy of real rows and of rows with two labels",
      .paper = kMixupMP,
      .call = [](const MixupMPLossOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", mixup_mp_loss(in["logits"], in["target"],
                                    {.target_a = in.find("target_a"),
                                     .target_b = in.find("target_b"),
                                     .lam = in.find("lam"),
                                     .weight = in.find("weight")},
                                    o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return mixed_rows(s, true); },
      .examples = {R"({"pseudo_weight": 0.35})"},
      .traits = [](Traits& t) { t.surrogate_gradient = true; }});  // nor have the weights
}

void register_tunable(Registry& r) {
  r.add(FunctionInfo<TunableLossOptions>{
      .name = "tunable_parametric_loss",
      .family = "Function",
      .summary = "objectives weighed by a user's parameters",
      .paper = "Maggioni et al. 2023, arXiv 2304.00898",
      .call = [](const TunableLossOptions& o, const Arguments& in) -> NamedTensors {
        return {{"loss", tunable_parametric_loss(in["losses"], in["params"], o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) -> Sample {
        const int64_t n = s.length >= 0 ? s.length : s.size ? 1024 : 4;
        SampleSpec other = s;
        other.seed += 1;
        return {{{"losses", s.normal({n, 3})}, {"params", other.normal({n, 3})}}, {}, n};
      },
      .examples = {R"({"scales": [1, 0.1, 2.5], "reduction": "none"})",
                   R"({"reduction": "sum"})"}});
}

void register_guidance(Registry& r) {
  r.add<DirectionalCLIPLoss>();
  r.add<GeodesicDistillationLoss>();
  r.add_family({.name = "SubspaceKernel", .call = "source [n, d], target [m, d] -> kernel [d, d]"});
  r.add(FunctionInfo<GeodesicFlowKernelOptions>{
      .name = "geodesic_flow_kernel",
      .family = "SubspaceKernel",
      .summary = "mean projection along the geodesic between two subspaces",
      .paper = "Gong et al. 2012; Simon et al. 2021, arXiv 2104.08572",
      .call = [](const GeodesicFlowKernelOptions& o, const Arguments& in) -> NamedTensors {
        const GeodesicKernel k = geodesic_flow_kernel(in["source"], in["target"], o);
        return {{"kernel", k.kernel}, {"theta", k.theta}};
      },
      .inputs = [](const auto&, const SampleSpec& s) -> Sample {
        static constexpr int64_t kRows[] = {4, 8, 16, 64};
        const int64_t n = s.length >= 0 ? s.length : s.of(kRows), d = s.size ? 512 : 9;
        SampleSpec other = s;
        other.seed += 1;
        return {{{"source", s.normal({n, d})}, {"target", other.normal({n, d})}}, {}, n};
      },
      .examples = {R"({"center": "none", "source_dim": 2})", R"({"center": "sample"})"}});
}

constexpr const char* kCloc = "Chen et al. 2025, arXiv 2410.02746";

Tensor normal(const SampleSpec& s, std::uint64_t more, const Shape& sizes) {
  SampleSpec other = s;
  other.seed += more;
  return other.normal(sizes);
}
int64_t pairs_of(const SampleSpec& s) {
  static constexpr int64_t kPairs[] = {5, 64, 1024, 4096};
  return s.length >= 0 ? s.length : s.of(kPairs);
}
// Two images of n / 2 regions.
Sample regions(const SampleSpec& s) {
  const Shape sizes{2, (pairs_of(s) + 1) / 2, s.size ? 512 : 6};
  Tensor mask = ones({sizes[0], sizes[1]}, kBool);
  if (sizes[1] > 1) mask.select(0, 1).narrow(0, 0, 1).fill_(false);
  return {{{"region_features", normal(s, 0, sizes)},
           {"text_features", normal(s, 1, sizes)},
           {"logit_scale", full({}, 5.0, s.dtype)},
           {"region_mask", mask}},
          {},
          sizes.numel()};
}
Sample grounded(const SampleSpec& s) {
  const Shape sizes{2, (pairs_of(s) + 1) / 2, 4};
  const Tensor corners = sigmoid(normal(s, 1, sizes)) * 0.4;
  return {{{"pred", normal(s, 0, sizes)},
           {"boxes", concat({corners.narrow(2, 0, 2), corners.narrow(2, 2, 2) + 0.5}, 2)}},
          {},
          sizes.numel()};
}

void register_contrastive(Registry& r) {
  r.add_family({.name = "ContrastiveLoss", .call = "features of pairs, logit_scale [] -> y []"});
  r.add(FunctionInfo<NoOptions>{
      .name = "ClipLoss",
      .family = "ContrastiveLoss",
      .summary = "each image finds its text among all, and each text its image",
      .paper = "Radford et al. 2021, arXiv 2103.00020",
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"y", ClipLoss(in["image_features"], in["text_features"], in["logit_scale"])}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) -> Sample {
        const Shape sizes{pairs_of(s), s.size ? 512 : 6};
        return {{{"image_features", normal(s, 0, sizes)},
                 {"text_features", normal(s, 1, sizes)},
                 {"logit_scale", full({}, 5.0, s.dtype)}},
                {},
                sizes.numel()};
      }});
  r.add(FunctionInfo<RegionTextContrastiveLossOptions>{
      .name = "RegionTextContrastiveLoss",
      .family = "ContrastiveLoss",
      .summary = "each region finds its caption among those of a whole batch",
      .replaces = "ClipLoss",
      .paper = kCloc,
      .call = [](const RegionTextContrastiveLossOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", RegionTextContrastiveLoss(in["region_features"], in["text_features"],
                                                in["logit_scale"], in.find("region_mask"), o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return regions(s); },
      .examples = {R"({"conflict_threshold": 0.2})"}});
  r.add_family({.name = "BoxLoss", .call = "pred [B, M, 4], boxes [B, M, 4] -> y []"});
  r.add(FunctionInfo<GroundingLossOptions>{
      .name = "GroundingLoss",
      .family = "BoxLoss",
      .summary = "distance and overlap of predicted boxes",
      .paper = kCloc,
      .call = [](const GroundingLossOptions& o, const Arguments& in) -> NamedTensors {
        const Tensor pred = in["pred"], boxes = in["boxes"];
        return {{"y", GroundingLoss(pred, boxes, in.find("region_mask"), o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return grounded(s); },
      .examples = {R"({"giou_weight": 0.5})"},
      .traits = [](Traits& t) { t.surrogate_gradient = true; }});  // boxes are constants
}

}  // namespace

void register_loss(Registry& r) {
  register_contrastive(r);
  register_sequence_losses(r);
  register_alignment(r);
  register_guidance(r);
  register_mixup(r);
  register_tunable(r);
  register_video_losses(r);
}

}  // namespace dropin
