#include "dropin/number_format/mx_layer.h"
#include "registry/lists.h"

namespace dropin {

namespace {

struct QuantizeMXOptions {
  std::string format = "MXFP8_E4M3";
  int64_t axis = -1, block_size = 32;
  std::string rounding = "even", scale_mode = "floor";
  bool packed = false;
  static void fields(auto&& f) {
    using O = QuantizeMXOptions;
    f("format", &O::format, "MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4_E2M1 or MXINT8");
    f("axis", &O::axis, "blocks lie along it");
    f("block_size", &O::block_size, "values that share a scale");
    f("rounding", &O::rounding, "even, away, zero or stochastic");
    f("scale_mode", &O::scale_mode, "floor, or ceil: nothing saturates");
    f("packed", &O::packed, "codes as one bit stream per row; last axis only");
  }
};
struct DequantizeMXOptions {
  std::string format = "MXFP8_E4M3";
  int64_t axis = -1, block_size = 32;
  bool packed = false;
  std::optional<int64_t> size = std::nullopt;
  static void fields(auto&& f) {
    using O = DequantizeMXOptions;
    f("format", &O::format, "MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4_E2M1 or MXINT8");
    f("axis", &O::axis, "blocks lie along it");
    f("block_size", &O::block_size, "values that share a scale");
    f("packed", &O::packed, "codes are one bit stream per row");
    f("size", &O::size, "length of the last axis; needed when packed");
  }
};
/// A format by its own name: x -> codes, scales and y, what they stand for.
struct FormatOptions {
  int64_t axis = -1, block_size = 32;
  std::string rounding = "even", scale_mode = "floor";
  static void fields(auto&& f) {
    using O = FormatOptions;
    f("axis", &O::axis, "blocks lie along it");
    f("block_size", &O::block_size, "values that share a scale");
    f("rounding", &O::rounding, "even, away, zero or stochastic");
    f("scale_mode", &O::scale_mode, "floor, or ceil: nothing saturates");
  }
};

// x [rows, 1024], or [length, 40] for tests.
Sample matrix(const SampleSpec& s) {
  if (s.size) return sample_values(s);
  return {{{"x", s.normal({s.length >= 0 ? s.length : 5, 40})}}};
}

NamedTensors int8_absmax(const Tensor& given) {
  no_grad guard;
  const Tensor x = given.detach().to(kFloat32);
  const double top = x.numel() ? amax(abs(x)).item() : 0;
  const Tensor scale = full({1}, top > 0 ? top / 127 : 1, x.options());
  const Tensor codes = clamp(round(x / scale), -127, 127).to(kInt8);
  return {{"codes", codes}, {"scales", scale}, {"y", codes.to(kFloat32) * scale}};
}

NamedTensors nvfp4_parts(const NVFP4Tensor& q) {
  return {{"codes", q.codes}, {"scales", q.scales}, {"tensor_scale", q.tensor_scale}};
}

constexpr const char* kFamily = "NumberFormat";
constexpr const char* kPaper = "Rouhani et al. 2023, arXiv 2310.10537";

// The standard formats: what x becomes, and its parts.
void register_standard(Registry& r) {
  r.add_family({.name = kFamily,
                .call = "x -> codes (and scales), and y, the values they stand for",
                .inputs = [](const Json&, const SampleSpec& s) { return matrix(s); }});
  r.add(FunctionInfo<NoOptions>{.name = "fp32",
                                .family = kFamily,
                                .summary = "32-bit floating point",
                                .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
                                  const Tensor y = in["x"].detach().to(kFloat32);
                                  return {{"codes", y}, {"y", y}};
                                }});
  r.add(FunctionInfo<NoOptions>{.name = "bf16",
                                .family = kFamily,
                                .summary = "16-bit floating point with float32's range",
                                .replaces = "fp32",
                                .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
                                  const Tensor c = in["x"].detach().to(kBFloat16);
                                  return {{"codes", c}, {"y", c.to(kFloat32)}};
                                }});
  r.add(FunctionInfo<NoOptions>{
      .name = "int8",
      .family = kFamily,
      .summary = "8-bit integers with one scale, absmax / 127, for the tensor",
      .replaces = "fp32",
      .call = [](const NoOptions&, const Arguments& in) { return int8_absmax(in["x"]); }});
}

void register_mx(Registry& r) {
  for (const char* format :
       {"MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2", "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8"})
    r.add(FunctionInfo<FormatOptions>{
        .name = format,
        .family = kFamily,
        .summary = "a scale per block, a power of two, and " + std::to_string(mx_bits(format)) +
                   " bits per value",
        .replaces = "fp32",
        .paper = kPaper,
        .call = [format](const FormatOptions& o, const Arguments& in) -> NamedTensors {
          const MXParams p{format, o.axis, o.block_size, o.rounding, o.scale_mode};
          const MXTensor q = quantize_mx(in["x"], p);
          return {
              {"codes", q.codes}, {"scales", q.scales}, {"y", dequantize_mx(q.codes, q.scales, p)}};
        }});
  r.add(FunctionInfo<QuantizeMXOptions>{
      .name = "quantize_mx",
      .family = kFamily,
      .summary = "codes and scales in a microscaling format",
      .paper = kPaper,
      .call = [](const QuantizeMXOptions& o, const Arguments& in) -> NamedTensors {
        const MXTensor q = quantize_mx(
            in["x"], {o.format, o.axis, o.block_size, o.rounding, o.scale_mode}, o.packed);
        return {{"codes", q.codes}, {"scales", q.scales}};
      }});
  r.add(FunctionInfo<DequantizeMXOptions>{
      .name = "dequantize_mx",
      .family = kFamily,
      .summary = "the values of codes and scales",
      .paper = kPaper,
      .call = [](const DequantizeMXOptions& o, const Arguments& in) -> NamedTensors {
        return {
            {"y", dequantize_mx(in["codes"], in["scales"],
                                {.format = o.format, .axis = o.axis, .block_size = o.block_size},
                                o.packed, o.size.value_or(0))}};
      },
      .inputs = [](const DequantizeMXOptions&, const SampleSpec& s) -> Sample {
        const MXTensor q = quantize_mx(matrix(s).inputs.find("x"), {});
        return {{{"codes", q.codes}, {"scales", q.scales}}};
      }});
}

void register_nvfp4(Registry& r) {
  r.add(FunctionInfo<NoOptions>{
      .name = "NVFP4",
      .family = kFamily,
      .summary = "4-bit values, 8-bit scales per 16 of them, one scale for the tensor",
      .replaces = "fp32",
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        NamedTensors out = nvfp4_parts(quantize_nvfp4(in["x"]));
        out.set("y",
                dequantize_nvfp4(out.find("codes"), out.find("scales"), out.find("tensor_scale")));
        return out;
      }});
  r.add(FunctionInfo<NoOptions>{.name = "quantize_nvfp4",
                                .family = kFamily,
                                .summary = "codes, scales and tensor scale of NVFP4",
                                .call = [](const NoOptions&, const Arguments& in) {
                                  return nvfp4_parts(quantize_nvfp4(in["x"]));
                                }});
  r.add(FunctionInfo<NoOptions>{
      .name = "dequantize_nvfp4",
      .family = kFamily,
      .summary = "the values of NVFP4 codes",
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"y", dequantize_nvfp4(in["codes"], in["scales"], in["tensor_scale"])}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) -> Sample {
        return {nvfp4_parts(quantize_nvfp4(matrix(s).inputs.find("x")))};
      }});
}

}  // namespace

void register_number_format(Registry& r) {
  register_standard(r);
  register_mx(r);
  register_nvfp4(r);
}

}  // namespace dropin
