#include "dropin/serialize/packed.h"

#include <array>
#include <cmath>
#include <cstring>

#include "dropin/core/parallel.h"
#include "dropin/number_format/codes.h"
#include "dropin/ops/ops.h"

namespace dropin {

namespace {

void need_packed(std::string_view who, const Tensor& t, DType dtype, int dims) {
  DROPIN_CHECK(t.dtype() == dtype, DTypeError, who, ": packed is ", t.dtype(), ", expected ",
               dtype);
  DROPIN_CHECK(t.dim() == dims, ShapeError, who, ": packed is ", t.sizes(), ", expected ", dims,
               " dimensions");
}

}  // namespace

Tensor unpack_ternary(const Tensor& packed_, int64_t rows) {
  need_packed("unpack_ternary", packed_, kUInt8, 2);
  const Tensor packed = packed_.detach().to(kCPU).contiguous();
  const int64_t quarter = packed.size(0), width = packed.size(1);
  DROPIN_CHECK(rows >= 0 && rows <= 4 * quarter, ShapeError, "unpack_ternary: rows is ", rows,
               ", packed ", packed.sizes(), " holds ", 4 * quarter);
  if (rows == 0) rows = 4 * quarter;
  Tensor y = empty({rows, width}, kInt8);
  const auto* in = packed.data<std::uint8_t>();
  auto* out = y.data<std::int8_t>();
  for (int64_t r = 0; r < rows; ++r) {
    const int shift = static_cast<int>(r / quarter) * 2;
    const auto* row = in + r % quarter * width;
    for (int64_t c = 0; c < width; ++c)
      out[r * width + c] = static_cast<std::int8_t>((row[c] >> shift & 3) - 1);
  }
  return y;
}

Tensor pack_ternary(const Tensor& ternary) {
  DROPIN_CHECK(ternary.dim() == 2, ShapeError, "pack_ternary: the rows are ", ternary.sizes(),
               ", expected 2 dimensions");
  const Tensor t = ternary.detach().to(kCPU).to(kFloat32).contiguous();
  const int64_t rows = t.size(0), width = t.size(1), quarter = (rows + 3) / 4;
  Tensor y = zeros({quarter, width}, kUInt8);
  const auto* in = t.data<float>();
  auto* out = y.data<std::uint8_t>();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) {
      const float v = in[r * width + c];
      if (v != -1 && v != 0 && v != 1)
        fail<OptionError>(
            {"pack_ternary: the value at [", r, ", ", c, "] is ", v, ", expected -1, 0 or 1"});
      out[r % quarter * width + c] = static_cast<std::uint8_t>(
          out[r % quarter * width + c] | (static_cast<int>(v) + 1) << (r / quarter * 2));
    }
  return y;
}

BitPackedWeight bitnet_to_bitlinear(const Tensor& packed, const Tensor& scale, bool divides) {
  DROPIN_CHECK(scale.numel() == 1, ShapeError, "bitnet_to_bitlinear: scale is ", scale.sizes(),
               ", expected one number");
  const float s = scale.to(kFloat32).reshape({}).item<float>();
  DROPIN_CHECK(s > 0 && std::isfinite(s), OptionError, "bitnet_to_bitlinear: scale is ",
               static_cast<double>(s), ", expected a positive number");
  const Tensor t = unpack_ternary(packed);
  const int64_t rows = t.size(0), width = t.size(1), bytes = (width + 3) / 4;
  BitPackedWeight r{full({rows, bytes}, 0x55, kUInt8), empty({1}, kFloat32)};  // spare codes are 1
  r.scale.data<float>()[0] = divides ? 1.0f / s : s;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t c = 0; c < width; ++c) {
      const int code = t.data<std::int8_t>()[i * width + c] + 1,
                shift = static_cast<int>(c % 4) * 2;
      DROPIN_CHECK(code < 3, OptionError, "bitnet_to_bitlinear: the code at [", i, ", ", c,
                   "] is 3, expected 0 to 2");
      auto& byte = r.packed.data<std::uint8_t>()[i * bytes + c / 4];
      byte = static_cast<std::uint8_t>((byte & ~(3 << shift)) | code << shift);
    }
  return r;
}

BitNetWeight bitlinear_to_bitnet(const BitPackedWeight& w, int64_t in_features, bool divides) {
  DROPIN_CHECK(w.scale.numel() == 1, ShapeError, "bitlinear_to_bitnet: ", w.scale.numel(),
               " scales, expected weight_groups = 1");
  const Tensor values = bitlinear_unpack_weight(w.packed, ones({1}), "b1.58", in_features);
  const Tensor scale = w.scale.detach().to(kCPU).to(kFloat32).reshape({1});
  return {pack_ternary(values), divides ? 1.0 / scale : scale.clone()};
}

namespace {

/// A state for MXLinear of codes [rows, bytes] and scales.
StateDict mx_state(const StateFile& f, const std::string& name, const Tensor& codes,
                   const Tensor& scales, const std::string& bias, int64_t expert) {
  StateDict r{{"weight_codes", codes.contiguous()}, {"weight_scales", scales.contiguous()}};
  for (const std::string& b : {name + "_bias", bias})
    if (const StoredTensor* t = f.find(b)) {
      const Tensor v = t->read(kFloat32);
      r.set("bias", v.dim() == 2 ? v[expert].contiguous() : v);
      break;
    }
  return r;
}

/// compressed-tensors' NVFP4.
StateDict nvfp4_state(const StateFile& f, const std::string& name) {
  const StoredTensor& s = f.at(name + "_scale");
  Tensor scales = empty(s.shape, kUInt8);
  const std::string raw = s.raw();
  if (s.format != "F8_E4M3" || raw.size() != static_cast<std::size_t>(scales.numel()))
    fail<FileError>({f.path, ": ", s.name, " is ", s.format, ", expected F8_E4M3"});
  if (!raw.empty()) std::memcpy(scales.data_ptr(), raw.data(), raw.size());
  const std::size_t dot = name.rfind('.');
  StateDict r = mx_state(f, name, f.get(name + "_packed"), scales,
                         dot == name.npos ? "bias" : name.substr(0, dot + 1) + "bias", 0);
  r.set("weight_tensor_scale", 1.0 / f.get(name + "_global_scale", kFloat32).reshape({1}));
  return r;
}

}  // namespace

StateDict mx_linear_state(const StateFile& f, const std::string& name, int64_t expert) {
  if (f.find(name + "_packed")) return nvfp4_state(f, name);
  const Tensor blocks = f.get(name + "_blocks"), scales = f.get(name + "_scales");
  DROPIN_CHECK(blocks.dim() == 4 && blocks.size(3) == 16 && scales.dim() == 3, ShapeError, f.path,
               ": ", name, "_blocks is ", blocks.sizes(), ", expected [experts, rows, groups, 16]");
  DROPIN_CHECK(expert >= 0 && expert < blocks.size(0), ShapeError, f.path, ": ", name, " has ",
               blocks.size(0), " experts, there is no ", expert);
  const Tensor s = scales[expert].contiguous();
  for (int64_t i = 0; i < s.numel(); ++i)
    DROPIN_CHECK(s.data<std::uint8_t>()[i] != 255, OptionError, f.path, ": ", name,
                 "_scales holds 255, which is 2^128 there and NaN in MXLinear");
  return mx_state(f, name, blocks[expert].reshape({blocks.size(1), 16 * blocks.size(2)}), s, "",
                  expert);
}

Tensor unpack_mxfp4(const Tensor& blocks_, const Tensor& scales_) {
  DROPIN_CHECK(blocks_.dtype() == kUInt8 && scales_.dtype() == kUInt8, DTypeError,
               "unpack_mxfp4: blocks are ", blocks_.dtype(), " and scales ", scales_.dtype(),
               ", expected uint8");
  DROPIN_CHECK(blocks_.dim() >= 3 && blocks_.dim() == scales_.dim() + 1 && blocks_.size(-1) == 16 &&
                   blocks_.numel() == 16 * scales_.numel(),
               ShapeError, "unpack_mxfp4: blocks are ", blocks_.sizes(), " and scales ",
               scales_.sizes(), ", expected [.., rows, groups, 16] and [.., rows, groups]");
  const Tensor blocks = blocks_.detach().to(kCPU).contiguous(),
               scales = scales_.detach().to(kCPU).contiguous();
  Shape shape = scales.sizes();
  const int64_t groups = shape[scales.dim() - 1];
  shape[scales.dim() - 1] = 32 * groups;
  Tensor y = empty(shape, kFloat32);
  std::array<float, 16> value;
  for (std::size_t c = 0; c < 16; ++c)
    value[c] = decode_number(number_format("F4"), static_cast<std::uint8_t>(c));
  const auto *in = blocks.data<std::uint8_t>(), *by = scales.data<std::uint8_t>();
  auto* out = y.data<float>();
  parallel_for(scales.numel(), 1 << 10, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g)
      for (int64_t i = 0; i < 16; ++i) {
        const std::uint8_t two = in[16 * g + i];
        out[32 * g + 2 * i] = std::ldexp(value[two & 15], by[g] - 127);
        out[32 * g + 2 * i + 1] = std::ldexp(value[two >> 4], by[g] - 127);
      }
  });
  return y.transpose(-1, -2).contiguous();
}

Tensor unpack_int32(const Tensor& packed_, int bits, int64_t columns) {
  need_packed("unpack_int32", packed_, kInt32, 2);
  DROPIN_CHECK(bits >= 1 && bits <= 8, OptionError, "unpack_int32: bits is ", bits,
               ", expected 1 to 8");
  const Tensor packed = packed_.detach().to(kCPU).contiguous();
  const int64_t rows = packed.size(0), words = packed.size(1);
  DROPIN_CHECK(columns >= 0 && columns <= 32 * words && words == (columns * bits + 31) / 32,
               ShapeError, "unpack_int32: packed is ", packed.sizes(), ", ", columns,
               " columns of ", bits, " bits need ", (columns * bits + 31) / 32, " words");
  Tensor y = empty({rows, columns}, kInt8);
  const auto* in = packed.data<std::int32_t>();
  auto* out = y.data<std::int8_t>();
  const int mask = (1 << bits) - 1, offset = 1 << (bits - 1);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t bit = c * bits, word = bit / 32;
      const int shift = static_cast<int>(bit % 32);
      std::uint64_t two = static_cast<std::uint32_t>(in[r * words + word]);
      if (shift + bits > 32)
        two |= std::uint64_t{static_cast<std::uint32_t>(in[r * words + word + 1])} << 32;
      out[r * columns + c] =
          static_cast<std::int8_t>((static_cast<int>(two >> shift) & mask) - offset);
    }
  return y;
}

Tensor pack_int32(const Tensor& values, int bits) {
  DROPIN_CHECK(bits >= 1 && bits <= 8, OptionError, "pack_int32: bits is ", bits,
               ", expected 1 to 8");
  DROPIN_CHECK(values.dim() == 2, ShapeError, "pack_int32: values are ", values.sizes(),
               ", expected 2 dimensions");
  const Tensor v = values.detach().to(kCPU).to(kInt64).contiguous();
  const int64_t rows = v.size(0), columns = v.size(1), words = (columns * bits + 31) / 32;
  Tensor y = zeros({rows, words}, kInt32);
  auto* out = reinterpret_cast<std::uint32_t*>(y.data<std::int32_t>());
  const int64_t offset = int64_t{1} << (bits - 1);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t q = v.data<int64_t>()[r * columns + c];
      if (q < -offset || q >= offset)
        fail<OptionError>({"pack_int32: the value at [", r, ", ", c, "] is ", q, ", expected ",
                           -offset, " to ", offset - 1});
      const auto code = static_cast<std::uint64_t>(q + offset) << (c * bits % 32);
      out[r * words + c * bits / 32] |= static_cast<std::uint32_t>(code);
      if (code >> 32) out[r * words + c * bits / 32 + 1] |= static_cast<std::uint32_t>(code >> 32);
    }
  return y;
}

}  // namespace dropin
