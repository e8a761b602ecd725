#include "dropin/loss/guidance.h"

#include "dropin/loss/geodesic.h"
#include "dropin/ops/normalize.h"

namespace dropin {

FamilyInfo GuidanceLoss::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call =
      "image [B, d], text [1 or B, d], image_source, text_source, image_reference (optional) "
      "-> loss [], similarity [B]";
  f.inputs = [](const Json&, const SampleSpec& s) -> Sample {
    static constexpr int64_t kBatches[] = {6, 4, 16, 64};
    const int64_t n = s.batch >= 0 ? s.batch : s.of(kBatches), d = s.size ? 512 : 12;
    auto rows = [&](std::uint64_t more) {
      SampleSpec other = s;
      other.seed += more;
      return other.normal({n, d});
    };
    return {{{"image", rows(0)},
             {"text", rows(1)},
             {"image_source", rows(2)},
             {"text_source", rows(3)}}};
  };
  f.bad_inputs = [](const Json&) -> std::vector<BadInput> {
    const Tensor x = ones({2, 3});
    return {{{{"image", zeros({0, 3})}, {"text", x}}},
            {{{"image", x}, {"text", ones({2, 4})}}},
            {{{"image", x}, {"text", x}, {"image_source", ones({3, 3})}}}};
  };
  f.traits.no_batch = true;
  f.traits.refuses_nonfinite = true;
  return f;
}

NamedTensors GuidanceLoss::call(const NamedTensors& in) {
  const GuidanceArgs args{in.find("image_source"), in.find("text_source"),
                          in.find("image_reference")};
  const Guidance g = forward(in.get("image", type()), in.get("text", type()), args);
  return {{"loss", g.loss}, {"similarity", g.similarity}};
}

namespace {

constexpr double kStill = 1e-6;  ///< a shorter difference is no direction

void check_choice(std::string_view who, const std::string& text_reduce,
                  const std::string& reduction) {
  DROPIN_CHECK(text_reduce == "none" || text_reduce == "mean", OptionError, who,
               ": text_reduce is \"", text_reduce, "\", expected none or mean");
  DROPIN_CHECK(reduction == "mean" || reduction == "sum" || reduction == "none", OptionError, who,
               ": reduction is \"", reduction, "\", expected mean, sum or none");
}

// Rows of length 1 in float64; `rows` < 0: as many as there are.
Tensor unit_rows(std::string_view who, const char* name, const Tensor& x, int64_t rows,
                 int64_t width) {
  DROPIN_CHECK(x.dim() == 2 && x.size(0) > 0 && (rows < 0 || x.size(0) == rows) &&
                   x.size(1) == width && width > 0,
               ShapeError, who, ": ", name, " is ", x.sizes(), ", expected [",
               rows < 0 ? std::string("n >= 1") : std::to_string(rows), ", ", width, "]");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who, ": ", name, " is ", x.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(all(isfinite(x.detach())).item<bool>(), Error, who, ": ", name,
               " holds NaN or infinity, expected finite numbers");
  return normalize(x.to(kCPU).to(kFloat64), 1);
}

struct Directions {
  Tensor image;               ///< n(image)
  Tensor x;                   ///< [B, d], unit rows where moved
  Tensor y;                   ///< [1 or B, d] unit rows
  Tensor moved;               ///< bool [B]
  std::vector<int64_t> rows;  ///< those that moved
};

Directions directions(std::string_view who, const Tensor& image, const Tensor& text,
                      const GuidanceArgs& args, bool average) {
  DROPIN_CHECK(image.dim() == 2, ShapeError, who, ": image is ", image.sizes(),
               ", expected [B >= 1, d]");
  const int64_t count = image.size(0), width = image.size(1);
  Directions d;
  d.image = unit_rows(who, "image", image, -1, width);
  Tensor e = unit_rows(who, "text", text, -1, width);
  DROPIN_CHECK(average || text.size(0) == 1 || text.size(0) == count, ShapeError, who, ": text is ",
               text.sizes(), ", expected [1 or ", count, ", ", width, "]");
  if (args.text_source.defined())
    e = e - unit_rows(who, "text_source", args.text_source, text.size(0), width);
  if (average) e = mean(e, {0}, true);
  DROPIN_CHECK(amin(norm(e.detach(), {1})).item() > 1e-9, Error, who,
               ": a text has no direction (it is its source), expected texts that differ");
  d.y = normalize(e, 1);
  Tensor D = d.image;
  if (args.image_source.defined())
    D = D - unit_rows(who, "image_source", args.image_source, count, width);
  d.moved = norm(D.detach(), {1}) > kStill;
  d.x = where(d.moved.unsqueeze(1), normalize(D, 1), D);
  for (const auto v : nonzero(d.moved).to_vector<int64_t>()) d.rows.push_back(v);
  return d;
}

Tensor reduced(const Tensor& each, const std::string& reduction) {
  return reduction == "mean" ? mean(each) : reduction == "sum" ? sum(each) : each;
}
Guidance result(const Tensor& each, const Tensor& similarity, const std::string& reduction,
                const Tensor& image) {
  auto as_given = [&](const Tensor& t) { return t.to(image.dtype()).to(image.device()); };
  return {as_given(reduced(each, reduction)), as_given(similarity.detach())};
}

Tensor root(const Tensor& square) {  // not below 1e-8, and without slope there
  const Tensor small = square.detach() <= 1e-16;
  return where(small, 1e-8, sqrt(where(small, 1.0, square)));
}
Tensor geodesic_cosine(std::string_view who, const Tensor& x, const Tensor& y, const Tensor& source,
                       const Tensor& target, const GeodesicDistillationLossOptions& o,
                       int64_t count) {
  const int64_t most = count <= 2 ? count : count - 2;
  const detail::GeodesicForms f = detail::geodesic_forms(
      who, x, y, detail::centred(source, o.center), detail::centred(target, o.center),
      {std::min(o.source_dim, most), std::min(o.target_dim, most), o.rank_tol}, o.detach_kernel);
  return f.xy / (root(f.xx) * root(f.yy));
}

}  // namespace

std::vector<std::string> DirectionalCLIPLoss::examples() {
  return {R"({"text_reduce": "mean", "reduction": "sum"})"};
}

DirectionalCLIPLoss::DirectionalCLIPLoss(const DirectionalCLIPLossOptions& o) : Component(o) {
  check_choice(who(), o.text_reduce, o.reduction);
}

Guidance DirectionalCLIPLoss::forward(const Tensor& image, const Tensor& text,
                                      const GuidanceArgs& args) {
  const Directions d = directions(who(), image, text, args, options_.text_reduce == "mean");
  if (args.image_reference.defined())
    unit_rows(who(), "image_reference", args.image_reference, image.size(0), image.size(1));
  const Tensor similarity = sum(d.x * d.y, {1});
  return result(1.0 - similarity, similarity, options_.reduction, image);
}

std::vector<std::string> GeodesicDistillationLoss::examples() {
  return {R"({"detach_kernel": false})",
          R"({"detach_kernel": false, "center": "none", "text_reduce": "mean", "source_dim": 1})"};
}

GeodesicDistillationLoss::GeodesicDistillationLoss(const GeodesicDistillationLossOptions& o)
    : Component(o) {
  check_choice(who(), o.text_reduce, o.reduction);
  detail::check_geodesic_options(who(), o.center, o.rank_tol);
  DROPIN_CHECK(o.source_dim >= 1 && o.target_dim >= 1, OptionError, who(), ": source_dim ",
               o.source_dim, " and target_dim ", o.target_dim, ", expected 1 or more");
}

Guidance GeodesicDistillationLoss::forward(const Tensor& image, const Tensor& text,
                                           const GuidanceArgs& args) {
  const auto& o = options_;
  const Directions d = directions(who(), image, text, args, o.text_reduce == "mean");
  Tensor reference;
  if (args.image_reference.defined())
    reference =
        unit_rows(who(), "image_reference", args.image_reference, image.size(0), image.size(1))
            .detach();
  const Tensor y = d.y.size(0) == 1 ? d.y.expand(d.x.sizes()) : d.y;
  Tensor similarity = sum(d.x * y, {1});  // of rows that have not moved
  const auto moved = static_cast<int64_t>(d.rows.size());
  if (moved > 0) {
    const Tensor index = tensor(d.rows), x = index_select(d.x, 0, index),
                 own = d.y.size(0) == 1 ? d.y : index_select(d.y, 0, index);
    const Tensor cosine = geodesic_cosine(who(), x, index_select(y, 0, index), x, own, o, moved);
    similarity = scatter(where(d.moved, 0.0, similarity), 0, index, cosine);
  }
  Tensor each = (1.0 - similarity) * o.inter_weight;
  if (reference.defined())
    each = each + (1.0 - geodesic_cosine(who(), reference, d.image, reference, d.image, o,
                                         image.size(0))) *
                      o.intra_weight;
  return result(each, similarity, o.reduction, image);
}

}  // namespace dropin
