// Sobol points and normal noise from them: evenly spread, at any position.
#pragma once
#include "dropin/metric/noise_sampler.h"

namespace dropin {

struct SobolOptions {
  int64_t dim = 0;  ///< required
  int64_t bits = 30;
  std::string scramble = "lms";
  int64_t seed = 0, reorder_block = 0;
  static void fields(auto&& f) {
    using O = SobolOptions;
    f("dim", &O::dim, "numbers of a point, 1 to 1111; required");
    f("bits", &O::bits, "of each number, 1 to 32");
    f("scramble", &O::scramble, "\"none\", \"shift\", \"lms\" (torch's kind) or \"owen\"");
    f("seed", &O::seed, "of the scrambling");
    f("reorder_block", &O::reorder_block,
      "points of each block of this many, a power of two, in random order; 0: in order");
  }
};

struct SobolNormalOptions {
  int64_t dim = 0;  ///< required
  int64_t bits = 30;
  std::string scramble = "lms";
  int64_t seed = 0, reorder_block = 0;
  std::string transform = "inverse", endpoint = "shrink";
  static void fields(auto&& f) {
    using O = SobolNormalOptions;
    f("dim", &O::dim, "numbers of a point; required");
    f("bits", &O::bits, "of each number, 1 to 32");
    f("scramble", &O::scramble, "\"none\", \"shift\", \"lms\" (torch's kind) or \"owen\"");
    f("seed", &O::seed, "of the scrambling");
    f("reorder_block", &O::reorder_block,
      "points of each block of this many, a power of two, in random order; 0: in order");
    f("transform", &O::transform, "\"inverse\" of the normal distribution, or \"box_muller\"");
    f("endpoint", &O::endpoint, "of inverse: \"shrink\" towards 1/2, or \"midpoint\" of each cell");
  }
};

namespace detail {
/// Direction numbers int64 [rows, bits] and shifts int64 [rows] of a scrambling, as the attributes
/// of torch's SobolEngine.
struct SobolState {
  Tensor directions, shift;
};
SobolState sobol_state(std::string_view who, int64_t rows, const SobolOptions& o);
/// Whole numbers below 2^bits of points [start, start + count), [count, rows] in row-major order.
std::vector<std::uint64_t> sobol_integers(const SobolState& s, int64_t start, int64_t count,
                                          const SobolOptions& o);
}  // namespace detail

/// Points of [0, 1): count int64 [] -> y float32 [count, dim] and index, the next point's number.
/// Buffers sobolstate int64 [dim, bits], shift int64 [dim] (those of torch's SobolEngine give its
/// stream), index int64 []. Direction numbers of Joe and Kuo 2008.
class SobolSequence : public Component<SobolSequence, SobolOptions, NoiseSampler> {
 public:
  static constexpr const char* kSummary = "evenly spread points of the unit cube";
  static constexpr const char* kPaper = "Sobol 1967; Joe, Kuo 2008";
  static std::vector<std::string> examples();
  explicit SobolSequence(const SobolOptions& o);
  Tensor draw(int64_t count) override;
  NamedTensors call(const NamedTensors& in) override;

 private:
  Tensor *directions_, *shift_, *index_;
};

/// Standard normals from Sobol points: lower variance in means over them (Chong, Forsyth 2020,
/// arXiv 1911.07023). Buffers as SobolSequence's, of 2 ceil(dim / 2) rows for box_muller.
class SobolNormal : public Component<SobolNormal, SobolNormalOptions, NoiseSampler> {
 public:
  static constexpr const char* kSummary = "standard normals from evenly spread points";
  static constexpr const char* kReplaces = "NormalSampler";
  static constexpr const char* kPaper = "Chong, Forsyth 2020, arXiv 1911.07023";
  static std::vector<std::string> examples();
  explicit SobolNormal(const SobolNormalOptions& o);
  Tensor draw(int64_t count) override;
  NamedTensors call(const NamedTensors& in) override;

 private:
  SobolOptions points_;
  Tensor *directions_, *shift_, *index_;
};

struct SobolSequenceOptions {
  int64_t dim = 0, count = 0, start = 0;
  std::string scramble = "lms";
  int64_t seed = 0, bits = 30;
  static void fields(auto&& f) {
    using O = SobolSequenceOptions;
    f("dim", &O::dim, "numbers of a point, 1 to 1111; required");
    f("count", &O::count, "points; required");
    f("start", &O::start, "number of the first point");
    f("scramble", &O::scramble, "\"none\", \"shift\", \"lms\" or \"owen\"");
    f("seed", &O::seed, "of the scrambling");
    f("bits", &O::bits, "of each number, 1 to 32");
  }
};
/// Points [start, start + count) of the sequence, float32 [count, dim]; never 1.
Tensor sobol_sequence(const SobolSequenceOptions& o);

}  // namespace dropin
