#include "dropin/module/family.h"

namespace dropin {

Tensor SampleSpec::normal(const Shape& sizes) const {
  Generator g(seed);
  return randn(sizes, {dtype, kCPU}, &g);
}

Tensor SampleSpec::integers(int64_t end, const Shape& sizes) const {
  Generator g(seed);
  return randint(0, end, sizes, {kInt64, kCPU}, &g);
}

namespace {
constexpr PictureSize kPictures[] = {{2, 4, 7}, {1, 8, 8}, {1, 64, 56}, {16, 64, 56}};
constexpr int64_t kRows[] = {2, 4, 512, 8192};
constexpr int64_t kValues[] = {0, 1024, 1 << 18, 1 << 23};
constexpr int64_t kTestLength = 9;
int64_t either(int64_t given, int64_t otherwise) { return given >= 0 ? given : otherwise; }
}  // namespace

const PictureSize& picture_size(int size) { return kPictures[std::clamp(size, 0, 3)]; }

Sample sample_pictures(const SampleSpec& s, int64_t channels) {
  const PictureSize& p = picture_size(s.size);
  const int64_t width = s.size ? p.side : p.side - 1;  // tests: not square
  return {{{"x", s.normal({either(s.batch, p.batch), channels, p.side, width})}}};
}
Sample sample_signals(const SampleSpec& s, int64_t channels, int64_t length) {
  return {{{"x", s.normal({either(s.batch, picture_size(s.size).batch), channels,
                           s.size ? length : kTestLength})}}};
}
Sample sample_rows(const SampleSpec& s, int64_t width) {
  if (s.size) return {{{"x", s.normal({either(s.batch, s.of(kRows)), width})}}};
  return {{{"x", s.normal({either(s.batch, 2), either(s.length, kTestLength), width})}}};
}
Sample sample_values(const SampleSpec& s) {
  if (!s.size) return sample_rows(s, 8);
  const int64_t n = s.of(kValues);
  return {{{"x", s.normal({std::max<int64_t>(1, n / 1024), std::min<int64_t>(1024, n)})}}};
}
Sample sample_ids(const SampleSpec& s, int64_t end, int64_t length) {
  const int64_t batch = s.size ? int64_t{1} << std::min(2 * (s.size - 1), 3) : 2;
  return {{{"x", s.integers(end, {either(s.batch, batch),
                                  either(s.length, s.size ? length : kTestLength)})}}};
}

int64_t option_or(const Json& options, std::initializer_list<const char*> names,
                  int64_t otherwise) {
  for (const char* name : names) {
    const Json* v = options.find(name);
    if (v && v->is_array() && v->size() > 0) v = &(*v)[0];
    if (v && v->is_int() && v->as_int() > 0) return v->as_int();
  }
  return otherwise;
}

Json json_of(std::initializer_list<std::pair<const char*, int64_t>> values) {
  Json o = Json::object();
  for (const auto& [name, v] : values) o.set(name, Json(v));
  return o;
}

Json picture_options(int size) {
  const int64_t c = picture_size(size).channels;
  return json_of({{"in_channels", c},
                  {"out_channels", c},
                  {"channels", c},
                  {"num_features", c},
                  {"num_channels", c},
                  {"d_model", c},
                  {"l_max", picture_size(size).side * picture_size(size).side},
                  {"kernel_size", 3},
                  {"padding", 1},
                  {"output_size", size ? 7 : 2}});
}

std::function<std::vector<BadInput>(const Json&)> bad_shape(const Shape& sizes) {
  return [sizes](const Json&) -> std::vector<BadInput> { return {{{{"x", zeros(sizes)}}}}; };
}

Work work_of_pictures(const Workload& w) {
  const int64_t channels = w.y.dim() > 1 ? w.y.size(1) : 1;
  const int64_t places = w.y.numel() / std::max<int64_t>(1, channels);
  return work_of_places(w, static_cast<double>(places));
}

Work work_of_places(const Workload& w, double places) {
  auto bytes = [](const Tensor& t) {
    return static_cast<double>(t.numel() * item_size(t.dtype()));
  };
  Work r;
  r.flops = 2 * places * w.used_weights;
  r.both_flops = 3 * r.flops;
  r.bytes = bytes(w.x) + bytes(w.y) + w.weight_bytes;
  // back: x, its gradient and y's; parameters and theirs
  r.both_bytes = 3 * bytes(w.x) + 2 * bytes(w.y) + 3 * w.weight_bytes;
  return r;
}

}  // namespace dropin
