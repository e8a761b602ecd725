#include "dropin/quantizer/vector_quantizer.h"

namespace dropin {

Units run_length_collapse(const Tensor& indices, const Tensor& lengths) {
  const char* who = "run_length_collapse";
  DROPIN_CHECK(indices.dim() == 2, ShapeError, who, ": indices is ", indices.sizes(),
               ", expected [B, T]");
  DROPIN_CHECK(indices.dtype() == kInt64, DTypeError, who, ": indices is ", indices.dtype(),
               ", expected int64");
  const int64_t batch = indices.size(0), frames = indices.size(1);
  detail::frames_within(who, lengths, batch, frames);
  const auto ids = indices.to_vector<int64_t>();
  const std::vector<int64_t> ends =
      lengths.defined() ? lengths.to_vector<int64_t>()
                        : std::vector<int64_t>(static_cast<std::size_t>(batch), frames);
  Units r{full({batch, frames}, -1, kInt64), zeros({batch, frames}, kInt64),
          zeros({batch}, kInt64)};
  for (int64_t b = 0; b < batch; ++b) {
    auto *units = r.units.data<int64_t>() + b * frames,
         *durations = r.durations.data<int64_t>() + b * frames;
    int64_t n = 0;
    for (int64_t t = 0; t < ends[static_cast<std::size_t>(b)]; ++t) {
      const int64_t id = ids[static_cast<std::size_t>(b * frames + t)];
      if (n == 0 || units[n - 1] != id) units[n++] = id;
      ++durations[n - 1];
    }
    r.unit_lengths.data<int64_t>()[b] = n;
  }
  const Device& device = indices.device();
  return {r.units.to(device), r.durations.to(device), r.unit_lengths.to(device)};
}

namespace {
void check_ids(const char* who, const Tensor& ids, int64_t specials) {
  DROPIN_CHECK(ids.dtype() == kInt64, DTypeError, who, ": ids are ", ids.dtype(),
               ", expected int64");
  DROPIN_CHECK(specials >= 1, OptionError, who, ": specials is ", specials,
               ", expected 1 (pad) or more");
}
}  // namespace

Tensor units_to_tokens(const Tensor& units, int64_t specials) {
  check_ids("units_to_tokens", units, specials);
  return where(units < 0, 0, units + specials);
}

Tensor tokens_to_units(const Tensor& tokens, int64_t specials) {
  check_ids("tokens_to_units", tokens, specials);
  return where(tokens < specials, -1, tokens - specials);
}

}  // namespace dropin
