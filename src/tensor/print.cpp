// Printing as torch prints: one format for the whole tensor, chosen from its values; more than 1000
// elements are summarised.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ostream>

#include "dropin/tensor/tensor.h"

namespace dropin {
namespace {

constexpr int kPrecision = 4, kEdge = 3, kThreshold = 1000, kLine = 80;

struct Format {
  bool integers = true, scientific = false;
  std::size_t width = 0;
  std::string one(double v) const {
    std::string s;
    if (!std::isfinite(v))
      s = std::isnan(v) ? "nan" : v < 0 ? "-inf" : "inf";
    else if (scientific)
      s = fmt::format("{:.{}e}", v, kPrecision);
    else if (integers)
      s = fmt::format("{:.0f}.", v);
    else
      s = fmt::format("{:.{}f}", v, kPrecision);
    return fmt::format("{:>{}}", s, width);
  }
};

Format choose(const std::vector<double>& values) {
  Format f;
  double lo = INFINITY, hi = 0;
  for (double v : values) {
    if (!std::isfinite(v)) continue;
    if (v != std::ceil(v)) f.integers = false;
    if (v != 0) {
      lo = std::min(lo, std::abs(v));
      hi = std::max(hi, std::abs(v));
    }
  }
  if (hi > 0) f.scientific = hi / lo > 1000 || hi > 1e8 || (!f.integers && lo < 1e-4);
  std::size_t w = 0;
  for (double v : values)
    if (std::isfinite(v) && v != 0)
      w = std::max(w, f.one(v).size());  // torch lets NaN, Inf and 0 stick out
  f.width = w;
  return f;
}

struct Printer {
  const Tensor& t;
  bool summarise;
  Format f;
  bool real;
  std::size_t width = 0;

  std::string element(const Tensor& x) const {
    if (!real && t.dtype() != kBool)
      return fmt::format("{:>{}}", fmt::format("{}", x.item<int64_t>()), width);
    const double v = x.item();
    if (t.dtype() == kBool) return fmt::format("{:>{}}", v != 0 ? "True" : "False", width);
    return f.one(v);
  }
  std::string row(const Tensor& x, int indent) const {
    const int64_t n = x.size(0);
    std::string out = "[";
    const std::size_t each = std::max<std::size_t>(
        1, (static_cast<std::size_t>(kLine) - static_cast<std::size_t>(indent)) /
               (std::max(f.width, width) + 2));
    std::size_t printed = 0;
    auto put = [&](const std::string& s, bool last) {
      if (printed && printed % each == 0)
        out += "\n" + std::string(static_cast<std::size_t>(indent) + 1, ' ');
      out += s;
      if (!last) out += (printed + 1) % each == 0 ? "," : ", ";
      ++printed;
    };
    for (int64_t i = 0; i < n; ++i) {
      if (summarise && n > 2 * kEdge && i == kEdge) {
        put("...", false);
        i = n - kEdge;
      }
      put(element(x[i]), i == n - 1);
    }
    return out + "]";
  }
  std::string block(const Tensor& x, int indent) const {
    if (x.dim() == 0) return element(x);
    if (x.dim() == 1) return row(x, indent);
    std::string out = "[";
    const std::string gap = "," + std::string(static_cast<std::size_t>(x.dim()) - 1, '\n') +
                            std::string(static_cast<std::size_t>(indent) + 1, ' ');
    const int64_t n = x.size(0);
    for (int64_t i = 0; i < n; ++i) {
      if (i) out += gap;
      if (summarise && n > 2 * kEdge && i == kEdge) {
        out += "..." + gap;
        i = n - kEdge;
      }
      out += block(x[i], indent + 1);
    }
    return out + "]";
  }
};

// The values that will be shown.
void collect(const Tensor& x, bool summarise, std::vector<double>& out) {
  if (x.dim() == 0) return out.push_back(x.item());
  const int64_t n = x.size(0);
  if (x.dim() == 1 && !(summarise && n > 2 * kEdge)) {
    for (double v : x.to_vector()) out.push_back(v);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    if (summarise && n > 2 * kEdge && i == kEdge) i = n - kEdge;
    collect(x[i], summarise, out);
  }
}

}  // namespace

std::string Tensor::str() const {
  if (!defined()) return "tensor(None)";
  const Tensor x = detach().to(kCPU);
  std::string suffix;
  const bool common = dtype() == kFloat32 || dtype() == kInt64 || dtype() == kBool;
  if (numel() == 0) {
    if (dim() != 1)
      suffix += fmt::format(", size=({})", fmt::join(sizes().begin(), sizes().end(), ", "));
    if (dtype() != kFloat32) suffix += fmt::format(", dtype={}", name(dtype()));
    return "tensor([]" + suffix + ")";
  }
  Printer p{x, numel() > kThreshold, {}, is_floating(dtype())};
  std::vector<double> shown;
  collect(x, p.summarise, shown);
  if (p.real)
    p.f = choose(shown);
  else
    for (double v : shown)
      p.width =
          std::max(p.width, dtype() == kBool ? (v != 0 ? std::size_t{4} : std::size_t{5})
                                             : fmt::format("{}", Scalar(v).to_int64()).size());
  if (!device().is_cpu()) suffix += fmt::format(", device='{}'", device().str());
  if (!common) suffix += fmt::format(", dtype={}", name(dtype()));
  if (requires_grad()) suffix += is_leaf() ? ", requires_grad=True" : ", grad_fn=<...>";
  return "tensor(" + p.block(x, 7) + suffix + ")";
}

std::ostream& operator<<(std::ostream& out, const Tensor& t) { return out << t.str(); }

}  // namespace dropin
