// NoiseSampler: the contract of sources of noise, and independent normals.
#pragma once
#include "dropin/module/family.h"

namespace dropin {

/// count int64 [] -> y [count, dim]; each call goes on where the last one ended. Standard member:
/// NormalSampler.
class NoiseSampler : public Module {
 public:
  using Family = NoiseSampler;
  static constexpr const char* kFamily = "NoiseSampler";
  static FamilyInfo family();
  /// The next `count` points.
  virtual Tensor draw(int64_t count) = 0;
  NamedTensors call(const NamedTensors& in) override;

 protected:
  /// The number of points asked for; errors name `who`.
  int64_t count_of(const NamedTensors& in) const;
};

struct NormalSamplerOptions {
  int64_t dim = 0;  ///< required
  static void fields(auto&& f) {
    f("dim", &NormalSamplerOptions::dim, "numbers of a point; required");
  }
};

/// Independent standard normals, row by row from the generator: calls of n and m give what one of
/// n + m gives.
class NormalSampler : public Component<NormalSampler, NormalSamplerOptions, NoiseSampler> {
 public:
  static constexpr const char* kSummary = "independent standard normals";
  explicit NormalSampler(const NormalSamplerOptions& o);
  Tensor draw(int64_t count) override { return draw(count, nullptr); }
  Tensor draw(int64_t count, Generator* g);
};

}  // namespace dropin
