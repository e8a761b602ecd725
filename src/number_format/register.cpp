#include "dropin/number_format/mx_layer.h"
#include "registry/lists.h"

namespace dropin {

namespace {

struct QuantizeMXOptions {
  std::string format = "MXFP8_E4M3";
  std::int64_t axis = -1, block_size = 32;
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
  std::int64_t axis = -1, block_size = 32;
  bool packed = false;
  std::optional<std::int64_t> size = std::nullopt;
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
  std::int64_t axis = -1, block_size = 32;
  std::string rounding = "even", scale_mode = "floor";
  static void fields(auto&& f) {
    using O = FormatOptions;
    f("axis", &O::axis, "blocks lie along it");
    f("block_size", &O::block_size, "values that share a scale");
    f("rounding", &O::rounding, "even, away, zero or stochastic");
    f("scale_mode", &O::scale_mode, "floor, or ceil: nothing saturates");
  }
};

}  // namespace

void register_number_format(Registry& r) {
  const char* paper = "Rouhani et al. 2023, arXiv 2310.10537";
  // the standard formats: what x becomes, and its parts
  r.add_function<NoOptions>("fp32", "NumberFormat", "32-bit floating point",
                            [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
                              const Tensor y = in.get("x", "fp32").detach().to(kFloat32);
                              return {{"codes", y}, {"y", y}};
                            });
  r.add_function<NoOptions>(
      "bf16", "NumberFormat", "16-bit floating point with float32's range",
      [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
        const Tensor c = in.get("x", "bf16").detach().to(kBFloat16);
        return {{"codes", c}, {"y", c.to(kFloat32)}};
      },
      "fp32");
  r.add_function<NoOptions>(
      "int8", "NumberFormat", "8-bit integers with one scale, absmax / 127, for the tensor",
      [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
        no_grad guard;
        const Tensor x = in.get("x", "int8").detach().to(kFloat32);
        const double top = x.numel() ? amax(abs(x)).item() : 0;
        const Tensor scale = full({1}, top > 0 ? top / 127 : 1),
                     codes = clamp(round(x / scale), -127, 127).to(kInt8);
        return {{"codes", codes}, {"scales", scale}, {"y", codes.to(kFloat32) * scale}};
      },
      "fp32");
  for (const char* format :
       {"MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2", "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8"})
    r.add_function<FormatOptions>(
        format, "NumberFormat",
        "a scale per block, a power of two, and " + std::to_string(mx_bits(format)) +
            " bits per value",
        [format](const FormatOptions& o, const NamedTensors& in) -> NamedTensors {
          const MXParams p{format, o.axis, o.block_size, o.rounding, o.scale_mode};
          const MXTensor q = quantize_mx(in.get("x", format), p);
          return {
              {"codes", q.codes}, {"scales", q.scales}, {"y", dequantize_mx(q.codes, q.scales, p)}};
        },
        "fp32", paper);
  auto nvfp4 = [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
    const NVFP4Tensor q = quantize_nvfp4(in.get("x", "NVFP4"));
    return {{"codes", q.codes},
            {"scales", q.scales},
            {"tensor_scale", q.tensor_scale},
            {"y", dequantize_nvfp4(q.codes, q.scales, q.tensor_scale)}};
  };
  r.add_function<NoOptions>("NVFP4", "NumberFormat",
                            "4-bit values, 8-bit scales per 16 of them, one scale for the tensor",
                            nvfp4, "fp32");
  r.add_function<QuantizeMXOptions>(
      "quantize_mx", "NumberFormat", "codes and scales in a microscaling format",
      [](const QuantizeMXOptions& o, const NamedTensors& in) -> NamedTensors {
        const MXTensor q =
            quantize_mx(in.get("x", "quantize_mx"),
                        {o.format, o.axis, o.block_size, o.rounding, o.scale_mode}, o.packed);
        return {{"codes", q.codes}, {"scales", q.scales}};
      },
      "", paper);
  r.add_function<DequantizeMXOptions>(
      "dequantize_mx", "NumberFormat", "the values of codes and scales",
      [](const DequantizeMXOptions& o, const NamedTensors& in) -> NamedTensors {
        return {
            {"y", dequantize_mx(in.get("codes", "dequantize_mx"), in.get("scales", "dequantize_mx"),
                                {.format = o.format, .axis = o.axis, .block_size = o.block_size},
                                o.packed, o.size.value_or(0))}};
      },
      "", paper,
      [](std::int64_t n) -> NamedTensors {
        const MXTensor q = quantize_mx(randn({(n + 1023) / 1024, 1024}), {});
        return {{"codes", q.codes}, {"scales", q.scales}};
      });
  r.add_function<NoOptions>(
      "quantize_nvfp4", "NumberFormat", "codes, scales and tensor scale of NVFP4",
      [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
        const NVFP4Tensor q = quantize_nvfp4(in.get("x", "quantize_nvfp4"));
        return {{"codes", q.codes}, {"scales", q.scales}, {"tensor_scale", q.tensor_scale}};
      });
  r.add_function<NoOptions>(
      "dequantize_nvfp4", "NumberFormat", "the values of NVFP4 codes",
      [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
        return {{"y", dequantize_nvfp4(in.get("codes", "dequantize_nvfp4"),
                                       in.get("scales", "dequantize_nvfp4"),
                                       in.get("tensor_scale", "dequantize_nvfp4"))}};
      },
      "", "",
      [](std::int64_t n) -> NamedTensors {
        const NVFP4Tensor q = quantize_nvfp4(randn({(n + 1023) / 1024, 1024}));
        return {{"codes", q.codes}, {"scales", q.scales}, {"tensor_scale", q.tensor_scale}};
      });
}

}  // namespace dropin
