#include "dropin/optimizer/optimizer8bit.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct MapOptions {
  bool is_signed = true;
  static void fields(auto&& f) {
    f("signed", &MapOptions::is_signed, "the map of [-1, 1], or of [0, 1]");
  }
};
struct BlockwiseOptions {
  bool is_signed = true;
  std::int64_t block_size = 256;
  static void fields(auto&& f) {
    f("signed", &BlockwiseOptions::is_signed, "the map of [-1, 1], or of [0, 1]");
    f("block_size", &BlockwiseOptions::block_size, "values that share a scale");
  }
};
}  // namespace

void register_optimizer(Registry& r) {
  r.add<SGD>();
  r.add<Adam>();
  r.add<AdamW>();
  r.add<SGD8bit>();
  r.add<Adam8bit>();
  r.add<AdamW8bit>();
  r.add<Lion8bit>();
  r.add<RMSprop8bit>();
  r.add<Adagrad8bit>();
  const char* paper = "Dettmers et al. 2022, arXiv 2110.02861";
  r.add_function<MapOptions>(
      "create_dynamic_map", "NumberFormat", "the 256 values of the dynamic map",
      [](const MapOptions& o, const NamedTensors&) -> NamedTensors {
        return {{"y", create_dynamic_map(o.is_signed)}};
      },
      "", paper, [](std::int64_t) { return NamedTensors(); });
  r.add_function<BlockwiseOptions>(
      "quantize_blockwise", "NumberFormat",
      "one byte per value by the dynamic map, one scale per block",
      [](const BlockwiseOptions& o, const NamedTensors& in) -> NamedTensors {
        const Blockwise q =
            quantize_blockwise(in.get("x", "quantize_blockwise"), o.is_signed, o.block_size);
        return {{"codes", q.codes}, {"absmax", q.absmax}};
      },
      "", paper);
  r.add_function<BlockwiseOptions>(
      "dequantize_blockwise", "NumberFormat", "the inverse of quantize_blockwise",
      [](const BlockwiseOptions& o, const NamedTensors& in) -> NamedTensors {
        return {{"y", dequantize_blockwise(in.get("codes", "dequantize_blockwise"),
                                           in.get("absmax", "dequantize_blockwise"), o.is_signed,
                                           o.block_size)}};
      },
      "", paper,
      [](std::int64_t n) -> NamedTensors {
        const Blockwise q = quantize_blockwise(randn({n}), true, 256);
        return {{"codes", q.codes}, {"absmax", q.absmax}};
      });
}

}  // namespace dropin
