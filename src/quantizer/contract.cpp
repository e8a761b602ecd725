#include "dropin/quantizer/contract.h"

#include <cmath>

#include "dropin/core/parallel.h"

namespace dropin {

FamilyInfo Quantizer::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [..., D], lengths [B] int64 (optional) -> y, loss [], perplexity [], indices int64";
  f.options = [](int size) {
    return json_of(
        {{"embed_dim", size ? 256 : 6}, {"in_dim", size ? 256 : 6}, {"out_dim", size ? 256 : 6}});
  };
  f.inputs = [](const Json& o, const SampleSpec& s) -> Sample {
    static constexpr int64_t kFrames[] = {7, 64, 512, 4096};
    const int64_t batch = s.batch >= 0 ? s.batch : 2,
                  frames = s.length >= 0 ? s.length : s.of(kFrames),
                  width = option_or(o, {"embedding_dim", "embed_dim", "dim"}, 6);
    const Json* channel = o.find("channel_dim");
    if (channel && *channel == Json(1)) return {{{"x", s.normal({batch, width, frames})}}};
    return {{{"x", s.normal({batch, frames, width})}}};
  };
  f.bad_inputs = bad_shape({2, 5, 1});
  return f;
}

NamedTensors Quantizer::call(const NamedTensors& in) {
  const Quantized q = forward(in.get("x", type()), in.find("lengths"));
  NamedTensors r{{"y", q.y}, {"loss", q.loss}};
  if (q.perplexity.defined()) r.set("perplexity", q.perplexity);
  r.set("indices", q.indices);
  return r;
}

Tensor detail::nearest_codes(const Tensor& z, const Tensor& codes) {
  no_grad guard;
  const int64_t n = z.size(0), width = z.size(1), count = codes.size(0);
  const Tensor columns = codes.detach().to(kCPU).to(kFloat64).transpose(0, 1).contiguous(),
               half = sum(square(columns), {0}) * 0.5,
               frames = z.detach().to(kCPU).to(kFloat64).contiguous();
  Tensor r = empty({n}, kInt64);
  const double *e = columns.data<double>(), *h = half.data<double>(), *x = frames.data<double>();
  auto* out = r.data<int64_t>();
  dropin::parallel_for(n, 16, [&](int64_t begin, int64_t end) {
    std::vector<double> scores(static_cast<std::size_t>(count));
    double* s = scores.data();
    for (int64_t i = begin; i < end; ++i) {
      // z e - |e|^2 / 2, each code in the same order: equal codes have equal bits
      for (int64_t k = 0; k < count; ++k) s[k] = -h[k];
      for (int64_t d = 0; d < width; ++d) {
        const double v = x[i * width + d];
        const double* row = e + d * count;
        for (int64_t k = 0; k < count; ++k) s[k] += v * row[k];
      }
      int64_t best = 0;
      for (int64_t k = 1; k < count; ++k)
        if (s[k] > s[best]) best = k;
      out[i] = best;
    }
  });
  return r.to(z.device());
}

Tensor detail::code_perplexity(const Tensor& indices, const Tensor& counts, int64_t codes,
                               DType dtype) {
  const auto ids = indices.to_vector<int64_t>();
  const std::vector<double> valid = counts.defined() ? counts.to_vector() : std::vector<double>();
  std::vector<double> used(static_cast<std::size_t>(codes));
  double total = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (!valid.empty() && valid[i] == 0) continue;
    used[static_cast<std::size_t>(ids[i])] += 1;
    total += 1;
  }
  double entropy = 0;
  for (const double u : used)
    if (total > 0) entropy -= u / total * std::log(u / total + 1e-10);
  return scalar(std::exp(entropy), {dtype, indices.device()});
}

Tensor detail::frames_within(std::string_view who, const Tensor& lengths, int64_t batch,
                             int64_t frames) {
  if (!lengths.defined()) return {};
  DROPIN_CHECK(lengths.dtype() == kInt64, DTypeError, who, ": lengths are ", lengths.dtype(),
               ", expected int64");
  DROPIN_CHECK(lengths.sizes() == Shape{batch}, ShapeError, who, ": lengths are ", lengths.sizes(),
               ", expected [", batch, "]");
  Tensor r = empty({batch, frames}, kBool);
  const auto all = lengths.to_vector<int64_t>();
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t n = all[static_cast<std::size_t>(b)];
    DROPIN_CHECK(n >= 0 && n <= frames, IndexError, who, ": the length of sample ", b, " is ", n,
                 ", expected 0 to ", frames);
    for (int64_t t = 0; t < frames; ++t) r.data<bool>()[b * frames + t] = t < n;
  }
  return r.to(lengths.device());
}

}  // namespace dropin
