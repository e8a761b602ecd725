// compressed-tensors and torchao: codes in a tensor of their own, scales beside them.
#include <algorithm>
#include <array>
#include <cmath>

#include "dropin/number_format/codes.h"
#include "dropin/ops/ops.h"
#include "dropin/serialize/packed.h"
#include "serialize/packed_layouts.h"

namespace dropin::serialize_detail {

namespace {

/// Codes of one format, several to a byte or one, of rows.
Tensor read_row_codes(const Tensor& packed, const NumberFormat& f, int64_t columns) {
  const int64_t rows = packed.size(0), bytes = packed.size(1);
  Tensor y = empty({rows, columns}, kFloat32);
  std::array<float, 256> value;
  for (std::size_t c = 0; c < 256; ++c) value[c] = decode_number(f, static_cast<std::uint8_t>(c));
  const auto* in = packed.data<std::uint8_t>();
  auto* out = y.data<float>();
  const int width = bytes == columns ? 8 : f.bits;
  const unsigned mask = (1u << f.bits) - 1;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t bit = c * width, byte = bit / 8;
      const int shift = static_cast<int>(bit % 8);
      unsigned two = in[r * bytes + byte];
      if (shift + f.bits > 8) two |= unsigned{in[r * bytes + byte + 1]} << 8;
      out[r * columns + c] = value[two >> shift & mask];
    }
  return y;
}

/// values [rows, C] by scales [rows, groups].
Tensor scale_groups(Tensor values, const Tensor& scales_) {
  const Tensor scales = scales_.to(kFloat32).contiguous();
  if (values.numel() == 0) return values;
  const int64_t columns = values.size(1), groups = scales.size(1), size = columns / groups;
  auto* v = values.data<float>();
  const auto* s = scales.data<float>();
  for (int64_t i = 0; i < values.numel(); ++i) v[i] *= s[i / columns * groups + i % columns / size];
  return values;
}

/// A shape [rows, columns] and its groups, checked against the scales.
void need_groups(const StateFile& f, const StoredTensor& codes, const StoredTensor& scale,
                 int64_t columns, int64_t group) {
  if (codes.shape.size() != 2 || scale.shape.size() != 2 || scale.shape[0] != codes.shape[0] ||
      (group ? blocks_of(columns, group) != scale.shape[1] || columns % group != 0
             : scale.shape[1] < 1 || columns % scale.shape[1] != 0))
    bad_layout(f, codes.name,
               {codes.shape, " with scales ", scale.shape, ", expected [rows, ",
                "packed columns] and [rows, groups]"});
}

/// NVFP4: code (scale / global), rounded to bfloat16 as the library does.
void unpack_ct_nvfp4(TensorGroups& g, const std::string& prefix, const StoredTensor& codes,
                     const StoredTensor& scale) {
  const StoredTensor global = g.need(prefix + "_global_scale", codes.name);
  const int64_t columns = 2 * codes.shape[1];
  need_groups(g.file(), codes, scale, columns, 16);
  if (global.format != "F32" || global.bytes != 4)
    bad_layout(g.file(), global.name,
               {global.format, " ", global.shape, ", expected one F32 that divides"});
  g.replace({codes.name, scale.name, global.name},
            packed_tensor(
                prefix, "compressed_tensors.NVFP4", {codes.shape[0], columns}, kBFloat16, codes,
                [codes, scale, global, columns] {
                  const Tensor s = scale.read() / global.read().reshape({1});
                  return scale_groups(read_row_codes(codes.read(), number_format("F4"), columns), s)
                      .to(kBFloat16);
                }));
}

/// MXFP4 and MXFP6 (E2M3): scale bytes are powers of two, 32 values each.
void unpack_ct_mx(TensorGroups& g, const std::string& prefix, const StoredTensor& codes,
                  const StoredTensor& scale) {
  if (codes.shape.size() != 2 || scale.shape.size() != 2)
    bad_layout(g.file(), codes.name, {codes.shape, ", expected two dimensions"});
  const int64_t columns = 32 * scale.shape[1], bytes = codes.shape[1];
  const char* format = 2 * bytes == columns ? "F4" : 8 * bytes == 6 * columns ? "F6_E2M3" : nullptr;
  if (!format)
    bad_layout(g.file(), codes.name,
               {bytes, " bytes a row for ", columns, " values, expected 4 or 6 bits each"});
  need_groups(g.file(), codes, scale, columns, 32);
  g.replace({codes.name, scale.name},
            packed_tensor(
                prefix, join({"compressed_tensors.MXFP", format[1] == '4' ? 4 : 6}),
                {codes.shape[0], columns}, kBFloat16, codes, [codes, scale, columns, format] {
                  return scale_groups(read_row_codes(codes.read(), number_format(format), columns),
                                      decode_numbers(scale.read(), "F8_E8M0"))
                      .to(kBFloat16);
                }));
}

/// Bits of a weight that is packed into int32 words: of the config's groups the one that fits.
int packed_bits(const StateFile& f, const StoredTensor& codes, int64_t columns,
                const ModelConfig& config) {
  std::vector<int64_t> bits;
  if (const Json* groups = config.find({"quantization_config", "config_groups"});
      groups && groups->is_object())
    for (const auto& [name, group] : groups->items())
      if (const Json* w = group.find("weights"))
        if (const Json* b = w->find("num_bits"); b && b->is_int()) bits.push_back(b->as_int());
  const bool said = !bits.empty();
  if (!said) bits = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<int> fit;
  for (const int64_t b : bits)
    if (b >= 1 && b <= 8 && blocks_of(columns * b, 32) == codes.shape[1] &&
        std::find(fit.begin(), fit.end(), b) == fit.end())
      fit.push_back(static_cast<int>(b));
  if (fit.size() == 1) return fit[0];
  bad_layout(f, codes.name,
             {codes.shape, " for ", columns,
              " columns: ", fit.empty() ? "no number of bits" : "more than one number of bits", " ",
              said ? "of config.json" : "(there is no config.json that says it)", " fits",
              config.error.empty() ? "" : "; ", config.error});
}

Tensor read_packed_ints(const StoredTensor& codes, const StoredTensor& scale,
                        const StoredTensor* zeros, int bits, int64_t columns) {
  const Tensor q = unpack_int32(codes.read(), bits, columns).to(kFloat32);
  const Tensor s = scale.read(kFloat32).contiguous();
  const int64_t rows = q.size(0), groups = s.size(1), size = columns / groups;
  Tensor z;
  if (zeros)  // the stream runs down the rows
    z = unpack_int32(zeros->read().t().contiguous(), bits, rows).t().to(kFloat32).contiguous();
  auto* v = q.data<float>();
  for (int64_t i = 0; i < q.numel(); ++i) {
    const int64_t at = i / columns * groups + i % columns / size;
    v[i] = (v[i] - (zeros ? z.data<float>()[at] : 0)) * s.data<float>()[at];
  }
  return q.to(scale.dtype);
}

void unpack_ct_ints(TensorGroups& g, const std::string& prefix, const StoredTensor& codes,
                    const StoredTensor& scale, const ModelConfig& config) {
  const StateFile& f = g.file();
  const StoredTensor shape_of = g.need(prefix + "_shape", codes.name);
  if (shape_of.format != "I64" || shape_of.bytes != 16)
    bad_layout(f, shape_of.name, {shape_of.format, " ", shape_of.shape, ", expected I64 [2]"});
  if (!is_floating(scale.dtype) || codes.shape.size() != 2)
    bad_layout(f, codes.name,
               {codes.shape, " with scales of ", scale.format,
                ", expected two dimensions and floating-point scales"});
  const std::vector<int64_t> size = shape_of.read().to_vector<int64_t>();
  const int64_t columns = size[1];
  if (size[0] != codes.shape[0] || columns < 1 || columns > 32 * codes.shape[1])
    bad_layout(f, codes.name, {codes.shape, ", its weight_shape says ", size[0], " x ", columns});
  need_groups(f, codes, scale, columns, 0);
  const int bits = packed_bits(f, codes, columns, config);
  std::vector<std::string> parts{codes.name, scale.name, shape_of.name};
  std::shared_ptr<StoredTensor> zeros;
  if (const StoredTensor* z = g.find(prefix + "_zero_point")) {
    if (z->format != "I32" || z->shape.size() != 2 || z->shape[1] != scale.shape[1] ||
        z->shape[0] != blocks_of(size[0] * bits, 32))
      bad_layout(f, z->name,
                 {z->format, " ", z->shape, ", expected I32 [", blocks_of(size[0] * bits, 32), ", ",
                  scale.shape[1], "]"});
    zeros = std::make_shared<StoredTensor>(*z);
    parts.push_back(z->name);
  }
  if (g.find(prefix + "_g_idx"))
    bad_layout(f, prefix + "_g_idx",
               {"columns in activation order cannot be read; load_state with unpack = false gives "
                "the parts"});
  g.replace(parts, packed_tensor(prefix, join({"compressed_tensors.INT", bits}), {size[0], columns},
                                 scale.dtype, codes, [codes, scale, zeros, bits, columns] {
                                   return read_packed_ints(codes, scale, zeros.get(), bits,
                                                           columns);
                                 }));
}

/// The element format of a torchao tensor's note, and the note's dtype.
const NumberFormat* noted_format(const Json& data) {
  const Json* e = data.find("elem_dtype");
  const Json* n = e ? e->find("_data") : nullptr;
  if (!n || !n->is_string()) return nullptr;
  const std::string& name = n->as_string();
  return find_number_format(name == "float4_e2m1fn_x2" ? "float4_e2m1fn" : name);
}

void unpack_torchao_tensor(TensorGroups& g, const std::string& name, const Json& note) {
  const StateFile& f = g.file();
  const Json *type = note.find("_type"), *data = note.find("_data");
  if (!type || !type->is_string() || !data || !data->is_object()) return;
  const bool mx = type->as_string() == "MXTensor", nv = type->as_string() == "NVFP4Tensor";
  if (!mx && !nv) return;  // others stay as they are stored
  const std::size_t dot = name.rfind('.');
  const std::string prefix = (dot == name.npos ? "_" : name.substr(0, dot + 1) + "_") +
                             (dot == name.npos ? name : name.substr(dot + 1));
  const StoredTensor codes = g.need(prefix + "_qdata", name),
                     scale = g.need(prefix + "_scale", name);
  if (const Json* s = data->find("is_swizzled_scales"); s && s->is_bool() && s->as_bool())
    bad_layout(f, name, {"its scales are swizzled for a GPU, expected them in rows"});
  const NumberFormat* format = nv ? find_number_format("F4") : noted_format(*data);
  if (!format) bad_layout(f, name, {"its elem_dtype is none that is known"});
  if (codes.shape.size() != 2) bad_layout(f, name, {codes.shape, ", expected two dimensions"});
  const int64_t group = nv ? 16 : 32,
                columns = codes.shape[1] * (format->bits == 4 && codes.format == "U8" ? 2 : 1);
  need_groups(f, codes, scale, columns, group);
  std::shared_ptr<StoredTensor> global;
  std::vector<std::string> parts{codes.name, scale.name};
  if (const StoredTensor* p = g.find(prefix + "_per_tensor_scale")) {
    if (p->format != "F32" || p->bytes != 4)
      bad_layout(f, p->name, {p->format, " ", p->shape, ", expected one F32"});
    global = std::make_shared<StoredTensor>(*p);
    parts.push_back(p->name);
  }
  g.replace(parts, packed_tensor(name, nv ? "torchao.NVFP4" : join({"torchao.MXFP", format->bits}),
                                 {codes.shape[0], columns}, kFloat32, codes,
                                 [codes, scale, global, format, columns] {
                                   Tensor s = scale.format == "U8"
                                                  ? decode_numbers(scale.read(), "F8_E8M0")
                                                  : scale.read(kFloat32);
                                   if (global) s = global->read().reshape({1}) * s;
                                   const Tensor v =
                                       codes.format == "U8"
                                           ? read_row_codes(codes.read(), *format, columns)
                                           : codes.read(kFloat32);
                                   return scale_groups(v, s);
                                 }));
}

}  // namespace

void unpack_compressed_tensors(TensorGroups& groups, const ModelConfig& config) {
  for (const std::string& prefix : groups.ending("_packed")) {
    const StoredTensor *c = groups.find(prefix + "_packed"), *s = groups.find(prefix + "_scale");
    if (!c || !s) continue;
    const StoredTensor codes = *c, scale = *s;
    if (codes.format == "U8" && codes.shape.size() == 2 && scale.format == "F8_E4M3")
      unpack_ct_nvfp4(groups, prefix, codes, scale);
    else if (codes.format == "U8" && scale.format == "U8")
      unpack_ct_mx(groups, prefix, codes, scale);
    else if (codes.format == "I32")
      unpack_ct_ints(groups, prefix, codes, scale, config);
  }
}

void unpack_torchao(TensorGroups& groups) {
  const Json notes = groups.file().metadata;
  if (!notes.is_object() || !notes.find("tensor_names")) return;
  for (const auto& [name, text] : notes.items()) {
    if (!text.is_string() || name == "tensor_names" || text.as_string().empty() ||
        text.as_string()[0] != '{')
      continue;
    try {
      unpack_torchao_tensor(groups, name, Json::parse(text.as_string()));
    } catch (const OptionError& e) {
      bad_layout(groups.file(), name, {"its note in __metadata__: ", e.what()});
    }
  }
}

}  // namespace dropin::serialize_detail
