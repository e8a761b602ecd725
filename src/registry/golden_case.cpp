// Reads golden cases and compares results with them.
#include "registry/golden_case.h"

#include <fmt/format.h>

#include <cmath>

namespace dropin::registry_detail {
namespace {

/// Each tensor of the file to the group that its prefix names.
void sort_tensors(const std::string& path, const SafetensorsFile& file, GoldenCase& c) {
  struct Prefix {
    const char* text;
    NamedTensors* where;
  };
  const Prefix prefixes[] = {{"param.", &c.parameters},
                             {"buffer.", &c.buffers},
                             {"input.", &c.inputs},
                             {"output.", &c.outputs},
                             {"grad_output.", &c.grad_outputs},
                             {"grad_input.", &c.grad_inputs},
                             {"grad_param.", &c.grad_parameters},
                             {"grad.", &c.step_gradients}};
  for (const auto& [name, t] : file.tensors) {
    bool known = false;
    for (const Prefix& p : prefixes)
      if (!known && name.rfind(p.text, 0) == 0) {
        p.where->set(name.substr(std::string_view(p.text).size()), t);
        known = true;
      }
    if (!known)
      fail<FileError>({path, ": tensor \"", name,
                       "\" has none of the prefixes param. buffer. input. output. grad_output. "
                       "grad_input. grad_param. grad."});
  }
}

}  // namespace

GoldenCase read_case(const std::string& path, const SafetensorsFile& file) {
  auto meta = [&](const char* key) -> const std::string& {
    const std::string* v = file.find_metadata(key);
    if (!v)
      fail<FileError>({path, ": no \"", key, "\" in __metadata__; this is not a golden case"});
    return *v;
  };
  auto number = [&](const char* key) {
    const std::string& s = meta(key);
    char* end = nullptr;
    const double v = std::strtod(s.c_str(), &end);
    if (s.empty() || *end || !(v >= 0) || std::isinf(v))
      fail<FileError>({path, ": ", key, " is \"", s, "\", expected a finite number of at least 0"});
    return v;
  };
  if (meta("format") != "dropin-golden-1")
    fail<FileError>({path, ": format is \"", meta("format"), "\", expected dropin-golden-1"});
  GoldenCase c;
  c.kind = meta("kind");
  c.name = meta("name");
  if (c.kind != "module" && c.kind != "function" && c.kind != "optimizer")
    fail<FileError>({path, ": kind is \"", c.kind, "\", expected module, function or optimizer"});
  try {
    c.config = Json::parse(meta("config"));
  } catch (const OptionError& e) {
    fail<FileError>({path, ": config: ", e.what()});
  }
  if (!c.config.is_object()) fail<FileError>({path, ": config is not a JSON object"});
  if (const std::string* training = file.find_metadata("training")) {
    if (*training != "true" && *training != "false")
      fail<FileError>({path, ": training is \"", *training, "\", expected true or false"});
    c.training = *training == "true";
  }
  c.rtol = number("rtol");
  c.atol = number("atol");
  sort_tensors(path, file, c);
  return c;
}

namespace {

std::string position(int64_t flat, const Shape& sizes) {
  Shape p = sizes;
  for (int d = sizes.size() - 1; d >= 0; --d) {
    p[d] = flat % sizes[d];
    flat /= sizes[d];
  }
  return p.str();
}

}  // namespace

TensorCheck compare(std::string name, const Tensor& got_, const Tensor& want, const GoldenCase& c) {
  TensorCheck r;
  r.name = std::move(name);
  if (!got_.defined()) {
    r.detail = "there is no such result";
    return r;
  }
  if (!(got_.sizes() == want.sizes())) {
    r.detail = fmt::format("shape is {}, expected {}", got_.sizes().str(), want.sizes().str());
    return r;
  }
  const bool exact = !is_floating(want.dtype());
  if (exact && is_floating(got_.dtype())) {
    r.detail = fmt::format("dtype is {}, expected {}", dropin::name(got_.dtype()),
                           dropin::name(want.dtype()));
    return r;
  }
  const Tensor got = got_.detach().to(kCPU);
  const std::vector<double> g = got.to_vector(), w = want.to_vector();
  int64_t wrong = 0, worst_at = -1;
  for (std::size_t i = 0; i < g.size(); ++i) {
    double error = std::abs(g[i] - w[i]), share = 0;
    bool good;
    if (std::isnan(w[i]) || std::isnan(g[i]))
      good = std::isnan(w[i]) && std::isnan(g[i]);
    else if (std::isinf(w[i]) || std::isinf(g[i]))
      good = g[i] == w[i];
    else if (exact)
      good = g[i] == w[i];
    else {
      const double allowed = c.atol + c.rtol * std::abs(w[i]);
      share = allowed > 0 ? error / allowed : error > 0 ? INFINITY : 0;
      good = error <= allowed;
      r.max_error = std::max(r.max_error, error);
    }
    if (!good) {
      ++wrong;
      if (share == 0) share = INFINITY;
    }
    if (worst_at < 0 || share > r.worst) {
      r.worst = share;
      worst_at = static_cast<int64_t>(i);
    }
  }
  if (exact) r.worst = static_cast<double>(wrong);
  r.passed = wrong == 0;
  if (!r.passed) {
    const auto i = static_cast<std::size_t>(worst_at);
    r.detail = fmt::format("{} of {} elements; at {} got {:.9g}, wanted {:.9g}", wrong, g.size(),
                           position(worst_at, want.sizes()), g[i], w[i]);
  }
  return r;
}

}  // namespace dropin::registry_detail
