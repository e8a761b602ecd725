// Codes with scales beside them: float8 by blocks (weight_scale_inv), float8 and int8 by rows
// (weight_scale), gpt-oss' MXFP4 experts, BitNet's ternary rows.
#include <limits>

#include "dropin/core/parallel.h"
#include "dropin/number_format/codes.h"
#include "dropin/ops/ops.h"
#include "dropin/serialize/packed.h"
#include "serialize/packed_layouts.h"

namespace dropin::serialize_detail {

namespace {

/// values [R, C] by scales [r, c], each for a block of `rows` x `columns`.
Tensor scale_blocks(const Tensor& values, const Tensor& scales, int64_t rows, int64_t columns) {
  const Tensor v = values.to(kFloat32).contiguous(), s = scales.to(kFloat32).contiguous();
  const int64_t width = v.size(1), scales_wide = s.size(1);
  Tensor y = empty(v.sizes(), kFloat32);
  const float *in = v.data<float>(), *by = s.data<float>();
  auto* out = y.data<float>();
  parallel_for(v.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < width; ++c)
        out[r * width + c] = in[r * width + c] * by[r / rows * scales_wide + c / columns];
  });
  return y;
}

/// Elements along an axis that share a scale: as configured, or as the sizes say.
int64_t block_along(const StateFile& f, const StoredTensor& w, int axis, int64_t scales,
                    const Json* configured) {
  const int64_t size = w.shape[axis];
  int64_t block = 0;
  if (configured && configured->is_array() && configured->size() == 2 &&
      (*configured)[static_cast<std::size_t>(axis)].is_int())
    block = (*configured)[static_cast<std::size_t>(axis)].as_int();
  else if (scales > 0 && size % scales == 0)
    block = size / scales;
  else
    block = 128;  // DeepSeek's, whose last block may be shorter
  if (block < 1 || blocks_of(size, block) != scales)
    bad_layout(
        f, w.name,
        {w.shape, " has ", scales, " scales along axis ", axis, ", which no block size gives"});
  return block;
}

bool is_code(const StoredTensor& t) { return t.format.starts_with("F8_") || t.format == "I8"; }

void unpack_block_scales(TensorGroups& g, const std::string& name, const char* suffix,
                         const Json* block) {
  const StateFile& f = g.file();
  const StoredTensor *codes = g.find(name), *scale = g.find(name + suffix);
  if (!codes || !scale || !is_code(*codes) || codes->shape.size() != 2) return;
  if (!is_floating(scale->dtype) && scale->format != "F8_E8M0") return;
  const StoredTensor w = *codes, s = *scale;
  Shape grid = s.shape;
  if (grid.size() == 0) grid = {1, 1};
  if (grid.size() == 1) grid = {grid[0], 1};
  if (grid.size() != 2)
    bad_layout(f, s.name, {s.shape, ", expected a scale for all, for each row, or for blocks"});
  // As torch computes it, the product is rounded to the scale's dtype.
  const int64_t rows = block_along(f, w, 0, grid[0], block),
                columns = block_along(f, w, 1, grid[1], block);
  const DType dtype = is_floating(s.dtype) ? s.dtype : kFloat32;
  g.replace(
      {w.name, s.name},
      packed_tensor(
          w.name, "scaled." + w.format, w.shape, dtype, w, [w, s, grid, rows, columns, dtype] {
            return scale_blocks(w.read(), s.read().reshape(grid), rows, columns).to(dtype);
          }));
}

/// KEY_blocks [.., rows, G, 16] and KEY_scales [.., rows, G] are KEY [.., 32 G, rows].
void unpack_experts(TensorGroups& g, const std::string& key) {
  const StateFile& f = g.file();
  const StoredTensor *b = g.find(key + "_blocks"), *s = g.find(key + "_scales");
  if (!b || !s || b->format != "U8" || s->format != "U8" || b->shape.size() < 3) return;
  const StoredTensor blocks = *b, scales = *s;
  const auto sizes = blocks.shape;
  const int64_t sixteen = sizes[sizes.size() - 1];
  const Shape of_scales(sizes.begin(), static_cast<int64_t>(sizes.size()) - 1);
  if (sixteen != 16 || !(of_scales == scales.shape))
    bad_layout(f, blocks.name,
               {blocks.shape, " with scales ", scales.shape,
                ", expected [.., rows, groups, 16] and [.., rows, groups]"});
  Shape shape = of_scales;
  const int last = static_cast<int>(shape.size()) - 1;
  const int64_t rows = shape[last - 1], groups = shape[last];
  shape[last - 1] = 32 * groups;
  shape[last] = rows;
  g.replace({blocks.name, scales.name},
            packed_tensor(key, "gpt_oss.MXFP4", shape, kFloat32, blocks,
                          [blocks, scales] { return unpack_mxfp4(blocks.read(), scales.read()); }));
}

/// Ternary rows of BitNet with their scale: divided by where the layer is "bitlinear", multiplied
/// where it is "autobitlinear".
void unpack_ternary_rows(TensorGroups& g, const std::string& name, bool divide) {
  const StoredTensor *codes = g.find(name), *scale = g.find(name + "_scale");
  if (!codes || !scale || codes->format != "U8" || codes->shape.size() != 2) return;
  int64_t n = 1;
  for (const int64_t d : scale->shape) n *= d;
  if (n != 1 || !is_floating(scale->dtype))
    bad_layout(g.file(), scale->name,
               {scale->format, " ", scale->shape, ", expected one number for the whole weight"});
  const StoredTensor w = *codes, s = *scale;
  const Shape shape{4 * w.shape[0], w.shape[1]};
  g.replace(
      {w.name, s.name}, packed_tensor(w.name, "bitnet.TERNARY", shape, kFloat32, w, [w, s, divide] {
        const Tensor t = unpack_ternary(w.read()).to(kFloat32), by = s.read(kFloat32).reshape({1});
        return divide ? t / by : t * by;
      }));
}

/// Whether the layers' scale divides: "bitlinear"; "autobitlinear" multiplies.
bool bitnet_divides(const ModelConfig& config) {
  const std::string kind = config.text({"quantization_config", "linear_class"});
  if (!kind.empty() && kind != "bitlinear" && kind != "autobitlinear")
    fail<FileError>(
        {config.path, ": linear_class is \"", kind, "\", expected bitlinear or autobitlinear"});
  return kind != "autobitlinear";
}

bool is_bitnet(const ModelConfig& config) {
  return config.text({"quantization_config", "quant_method"}) == "bitnet";
}

/// One layer: its weight in two parts, its bias and norm by our names.
void layer_for_bitlinear(TensorGroups& g, const std::string& name, bool divide) {
  const StoredTensor *codes = g.find(name), *scale = g.find(name + "_scale");
  if (!codes || !scale || codes->format != "U8" || codes->shape.size() != 2) return;
  const StoredTensor w = *codes, s = *scale;
  const std::string prefix = name.substr(0, name.size() - std::string_view("weight").size());
  const auto packed = [w, s, divide] { return bitnet_to_bitlinear(w.read(), s.read(), divide); };
  const Shape shape{4 * w.shape[0], blocks_of(w.shape[1], 4)};
  g.replace({s.name}, packed_tensor(s.name, "bitlinear.SCALE", {1}, kFloat32, s,
                                    [packed] { return packed().scale; }));
  g.replace({w.name}, packed_tensor(name + "_packed", "bitlinear.TERNARY", shape, kUInt8, w,
                                    [packed] { return packed().packed; }));
  if (const StoredTensor* b = g.find(prefix + "bias"); b && !divide) {
    const StoredTensor bias = *b;
    g.replace({bias.name},
              packed_tensor(bias.name, "bitlinear.BIAS", bias.shape, kFloat32, bias, [bias, s] {
                return bias.read(kFloat32) * s.read(kFloat32).reshape({1});
              }));
  }
  if (const StoredTensor* n = g.find(prefix + "rms_norm.weight")) {
    StoredTensor norm = *n;
    const std::string before = norm.name;
    norm.name = prefix + "norm.weight";
    g.replace({before}, std::move(norm));
  }
}

}  // namespace

void bitnet_for_bitlinear(TensorGroups& groups, const ModelConfig& config) {
  if (!is_bitnet(config)) return;
  const bool divide = bitnet_divides(config);
  for (const std::string& name : groups.ending("_scale"))
    if (name.ends_with("weight")) layer_for_bitlinear(groups, name, divide);
}

void unpack_gpt_oss(TensorGroups& groups) {
  for (const std::string& key : groups.ending("_blocks")) unpack_experts(groups, key);
}

void unpack_bitnet(TensorGroups& groups, const ModelConfig& config) {
  if (!is_bitnet(config)) return;
  const bool divide = bitnet_divides(config);
  for (const std::string& name : groups.ending("_scale"))
    if (name.ends_with("weight")) unpack_ternary_rows(groups, name, divide);
}

void unpack_scaled(TensorGroups& groups, const ModelConfig& config) {
  const Json* block = config.find({"quantization_config", "weight_block_size"});
  for (const std::string& name : groups.ending("_scale_inv"))
    unpack_block_scales(groups, name, "_scale_inv", block);
  for (const std::string& name : groups.ending("_scale"))
    if (name.ends_with("weight")) unpack_block_scales(groups, name, "_scale", nullptr);
}

}  // namespace dropin::serialize_detail
