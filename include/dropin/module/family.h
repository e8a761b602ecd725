// FamilyInfo: the contract of one standard component as data. Its members take the same call and
// replace each other; tests, benchmarks, the program and the documentation ask the family and its
// members, never their names.
#pragma once
#include <algorithm>
#include <functional>

#include "dropin/module/module.h"

namespace dropin {

/// Facts about a member, by its options, that generic code asks for. All are false unless a family
/// or a member says so: `static void traits(const Options& o, Traits& t)`.
struct Traits {
  bool surrogate_gradient = false;  ///< backward is not the derivative, by the paper's intent
  bool mixes_batch = false;         ///< in training, a sample's result depends on the others
  bool fixed_length = false;        ///< takes sequences of the length it was made for only
  bool takes_no_mask = false;       ///< refuses key_padding_mask
  bool random_in_training = false;  ///< draws numbers in training that no input gives
  bool integer_inputs = false;      ///< its main input holds ids or codes
  bool any_shape = false;           ///< takes inputs of every shape
  bool promotes_integers = false;   ///< a function of numbers: integers are promoted, as in torch
  bool kinks_everywhere = false;    ///< of so many rectifiers that differences of values cross some
  bool reads_files = false;         ///< its options name files of this machine
  bool no_batch = false;            ///< its result is of all samples together: a loss
  bool refuses_nonfinite = false;   ///< NaN and infinity are errors
  bool sampler = false;             ///< each call gives the next results of a stream
};

/// What a sample of inputs is asked for.
struct SampleSpec {
  int size = 0;            ///< 0: small, for tests; 1 to FamilyInfo::sizes: a benchmark's
  int64_t batch = -1;      ///< samples; -1: as the size has it
  int64_t length = -1;     ///< of a sequence; -1: as the size has it
  DType dtype = kFloat32;  ///< of floating-point inputs
  std::uint64_t seed = 5;
  /// A picture's channels and side, rows of a matrix, ...: the number of this size, from a list of
  /// one per size (the last one serves all larger ones).
  template <class T, std::size_t N>
  const T& of(const T (&list)[N]) const {
    return list[std::min<std::size_t>(static_cast<std::size_t>(size), N - 1)];
  }
  /// Normal values, the same for the same seed.
  Tensor normal(const Shape& sizes) const;
  /// int64 numbers from 0 to below `end`, the same for the same seed.
  Tensor integers(int64_t end, const Shape& sizes) const;
};

/// Named inputs; the first one is the main input: gradients, samples and non-contiguous forms are
/// tried on it.
struct Sample {
  NamedTensors inputs;
  std::vector<std::string> unbatched = {};  ///< inputs whose first size is not the batch
  int64_t count = -1;  ///< boxes, pictures, ...: a function's measure; -1: x's values
  const std::string& main() const { return inputs.begin()->first; }
};

/// Inputs that a member must refuse before any work, and a part of what it says then.
struct BadInput {
  NamedTensors inputs;
  std::string says = "expected";
};

/// Arithmetic and bytes of one call, forward and with backward: what a time is held against.
struct Work {
  double flops = 0, bytes = 0, both_flops = 0, both_bytes = 0;
};
/// What a call's work is counted from.
struct Workload {
  Tensor x, y;              ///< main input and first result
  double weight_bytes = 0;  ///< of all parameters
  double used_weights = 0;  ///< values in matrices that a gradient reached
};

/// An option that benchmarks vary, at one size.
struct Sweep {
  std::string option;
  std::vector<int64_t> values;
  int size = 1;
};

/// One family. Contracts give it by `static FamilyInfo family()`; a family of functions adds it to
/// the registry (Registry::add_family).
struct FamilyInfo {
  std::string name;      ///< "SequenceMixer"
  std::string call;      ///< what goes in and what comes out
  int sizes = 3;         ///< of benchmarks: tiny, for the caches, for memory
  bool growing = false;  ///< sizes grow fourfold, so a long call foretells longer ones
  int peer_sizes = 3;    ///< sizes that a peer program is asked for; 0: none
  std::vector<Sweep> sweeps = {};
  /// Values of the option names that every member understands, at a size.
  std::function<Json(int size)> options = nullptr;
  /// Inputs for a member made with these options.
  std::function<Sample(const Json& options, const SampleSpec&)> inputs = nullptr;
  std::function<std::vector<BadInput>(const Json& options)> bad_inputs = nullptr;
  /// What a benchmark's row is called: "L:1024"; null: the sizes of the main input.
  std::function<std::string(const Shape& x)> label = nullptr;
  /// null: weights times x's rows.
  std::function<Work(const Workload&)> work = nullptr;
  /// swap(): what of `old`'s meaning `fresh` does not keep, in words, unless the swap's own options
  /// name it; empty: nothing.
  std::function<std::string(const Module& old, const Module& fresh, const Json& named)> conflict =
      nullptr;
  /// Words that a swap's options may hold for conflict() though a member has no such option.
  std::vector<std::string> swap_words = {};
  Traits traits = {};  ///< of every member, unless it says otherwise
};

// What many families share.
/// An object of whole numbers.
Json json_of(std::initializer_list<std::pair<const char*, int64_t>> values);
/// Options of layers on pictures: channels by all their names, kernels of 3.
Json picture_options(int size);
/// One bad x, of floats.
std::function<std::vector<BadInput>(const Json&)> bad_shape(const Shape& sizes);
/// Each weight meets each position of y [B, C, ...].
Work work_of_pictures(const Workload& w);
/// x [batch, channels, side, side].
Sample sample_pictures(const SampleSpec& s, int64_t channels);
/// x [batch, channels, length].
Sample sample_signals(const SampleSpec& s, int64_t channels, int64_t length);
/// x [rows, width]; for tests [batch, length, width].
Sample sample_rows(const SampleSpec& s, int64_t width);
/// x of many values; for tests [batch, length, 8].
Sample sample_values(const SampleSpec& s);
/// x [batch, length] ids below `end`.
Sample sample_ids(const SampleSpec& s, int64_t end, int64_t length);
/// Channels, side and batch of the pictures of a size.
struct PictureSize {
  int64_t batch, channels, side;
};
const PictureSize& picture_size(int size);

/// The first of these options that a positive whole number, or `otherwise` when it is not one.
int64_t option_or(const Json& options, std::initializer_list<const char*> names, int64_t otherwise);

/// Work of a layer that multiplies each weight once for each of `places` positions: x, y and the
/// weights move once forward, and thrice with backward.
Work work_of_places(const Workload& w, double places);

}  // namespace dropin
