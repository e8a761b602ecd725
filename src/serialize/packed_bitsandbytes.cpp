// bitsandbytes: 4-bit weights (NF4, FP4) with block scales, and LLM.int8() rows.
#include <cmath>

#include "dropin/core/parallel.h"
#include "dropin/ops/ops.h"
#include "serialize/packed_layouts.h"

namespace dropin::serialize_detail {

namespace {

constexpr std::uint64_t kMaxQuantState = 1 << 16;  ///< bytes of JSON; theirs have 200

struct BnbQuantState {
  int64_t blocksize = 0, nested_blocksize = 256;
  double nested_offset = 0;
  DType dtype = kFloat32;
  Shape shape;
};

int64_t positive_entry(const Json& j, const char* key, const StateFile& f,
                       const std::string& name) {
  const Json* v = j.find(key);
  if (!v || !v->is_int() || v->as_int() < 1)
    bad_layout(f, name, {"its quant_state has no positive \"", key, "\""});
  return v->as_int();
}

BnbQuantState parse_quant_state(const StoredTensor& t, const StateFile& f,
                                const std::string& name) {
  if (t.format != "U8" || t.bytes > kMaxQuantState)
    bad_layout(f, t.name, {t.format, " of ", t.bytes, " bytes, expected JSON text as U8"});
  BnbQuantState r;
  Json j;
  try {
    j = Json::parse(t.raw());
  } catch (const OptionError& e) {
    bad_layout(f, t.name, {e.what()});
  }
  r.blocksize = positive_entry(j, "blocksize", f, name);
  const Json *shape = j.find("shape"), *dtype = j.find("dtype"), *offset = j.find("nested_offset");
  if (!shape || !shape->is_array() || shape->size() > abi::kMaxDims)
    bad_layout(f, name, {"its quant_state has no shape of at most 8 sizes"});
  for (std::size_t i = 0; i < shape->size(); ++i) {
    if (!(*shape)[i].is_int() || (*shape)[i].as_int() < 0)
      bad_layout(f, name,
                 {"its quant_state's shape ", shape->dump(), " has an entry that is no size"});
    r.shape.push_back((*shape)[i].as_int());
  }
  if (!dtype || !dtype->is_string()) bad_layout(f, name, {"its quant_state has no dtype"});
  const std::string& d = dtype->as_string();
  if (d != "float32" && d != "float16" && d != "bfloat16")
    bad_layout(f, name,
               {"its quant_state's dtype is \"", d, "\", expected float32, float16 or bfloat16"});
  r.dtype = dtype_from_name(d);
  if (j.find("nested_blocksize"))
    r.nested_blocksize = positive_entry(j, "nested_blocksize", f, name);
  if (offset && offset->is_number()) r.nested_offset = offset->as_double();
  return r;
}

/// The number of elements of a shape that a file claims; FileError when it cannot be counted.
int64_t claimed_elements(const Shape& s, const StateFile& f, const std::string& name) {
  int64_t n = 1;
  for (const int64_t d : s)
    if (__builtin_mul_overflow(n, d, &n))
      bad_layout(f, name, {s, " has too many elements to count"});
  return n;
}

void need_stored(const StoredTensor& t, const char* format, int64_t count, const StateFile& f) {
  int64_t n = 1;
  for (const int64_t d : t.shape) n *= d;
  if (t.format != format || n != count)
    bad_layout(f, t.name, {t.format, " ", t.shape, ", expected ", count, " of ", format});
}

/// One scale per block; nested: quantized themselves.
struct BnbScales {
  StoredTensor absmax, map, scales;  ///< map and scales only when nested
  bool nested = false;
  int64_t blocksize = 256;
  float offset = 0;
  Tensor read() const {
    if (!nested) return absmax.read();
    const Tensor codes = absmax.read(), table = map.read(), s = scales.read();
    Tensor r = empty(codes.sizes(), kFloat32);
    const auto* c = codes.data<std::uint8_t>();
    for (int64_t i = 0; i < codes.numel(); ++i)
      r.data<float>()[i] = table.data<float>()[c[i]] * s.data<float>()[i / blocksize] + offset;
    return r;
  }
};

/// High nibble first; scales run over the flat tensor.
Tensor decode_4bit(const StoredTensor& codes, const StoredTensor& map, const BnbScales& scales,
                   const BnbQuantState& q) {
  const Tensor c = codes.read(), table = map.read(), s = scales.read();
  Tensor y = empty(q.shape, kFloat32);
  const auto* p = c.data<std::uint8_t>();
  const float *v = table.data<float>(), *absmax = s.data<float>();
  auto* out = y.data<float>();
  parallel_for(y.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      out[i] = v[i % 2 ? p[i / 2] & 15 : p[i / 2] >> 4] * absmax[i / q.blocksize];
  });
  return y.to(q.dtype);
}

void unpack_4bit(TensorGroups& g, const std::string& name, const std::string& kind) {
  const StateFile& f = g.file();
  const std::string state_name = name + ".quant_state.bitsandbytes__" + kind;
  const BnbQuantState q = parse_quant_state(g.need(state_name, name), f, name);
  const StoredTensor codes = g.need(name, state_name), map = g.need(name + ".quant_map", name);
  const int64_t n = claimed_elements(q.shape, f, name), blocks = blocks_of(n, q.blocksize);
  need_stored(codes, "U8", blocks_of(n, 2), f);
  need_stored(map, "F32", 16, f);
  BnbScales s;
  s.absmax = g.need(name + ".absmax", name);
  s.nested = g.find(name + ".nested_absmax") != nullptr;
  need_stored(s.absmax, s.nested ? "U8" : "F32", blocks, f);
  std::vector<std::string> parts{name, state_name, map.name, s.absmax.name};
  if (s.nested) {
    s.map = g.need(name + ".nested_quant_map", name);
    s.scales = g.need(name + ".nested_absmax", name);
    s.blocksize = q.nested_blocksize;
    s.offset = static_cast<float>(q.nested_offset);
    need_stored(s.map, "F32", 256, f);
    need_stored(s.scales, "F32", blocks_of(blocks, s.blocksize), f);
    parts.insert(parts.end(), {s.map.name, s.scales.name});
  }
  g.replace(parts, packed_tensor(name, kind == "nf4" ? "bitsandbytes.NF4" : "bitsandbytes.FP4",
                                 q.shape, q.dtype, codes,
                                 [codes, map, s, q] { return decode_4bit(codes, map, s, q); }));
}

/// LLM.int8(): weight = code SCB / 127, one SCB a row.
void unpack_int8(TensorGroups& g, const std::string& prefix) {
  const StateFile& f = g.file();
  const StoredTensor* codes = g.find(prefix + "weight");
  if (!codes || codes->format != "I8" || codes->shape.size() != 2) return;
  const StoredTensor weight = *codes, scb = g.need(prefix + "SCB", weight.name);
  need_stored(scb, "F32", weight.shape[0], f);
  std::vector<std::string> parts{weight.name, scb.name};
  if (const StoredTensor* order = g.find(prefix + "weight_format")) {
    need_stored(*order, "U8", 1, f);
    if (const int v = order->read().item<int>(); v != 0)
      bad_layout(f, order->name, {"is ", v, ", expected 0: rows in order"});
    parts.push_back(order->name);
  }
  g.replace(parts, packed_tensor(weight.name, "bitsandbytes.INT8", weight.shape, kFloat32, weight,
                                 [weight, scb] {
                                   const Tensor c = weight.read(), s = scb.read();
                                   Tensor y = empty(weight.shape, kFloat32);
                                   const int64_t width = weight.shape[1];
                                   for (int64_t i = 0; i < y.numel(); ++i)
                                     y.data<float>()[i] =
                                         static_cast<float>(c.data<std::int8_t>()[i]) *
                                         s.data<float>()[i / width] / 127.0f;
                                   return y;
                                 }));
}

/// One-byte optimizer states: code table times the greatest value of a block of 256. The parts stay
/// as they are beside it.
void unpack_optimizer_state(TensorGroups& g, const std::string& prefix, const char* number) {
  const StateFile& f = g.file();
  const std::string name = prefix + "state" + number;
  const StoredTensor* codes = g.find(name);
  if (!codes || codes->format != "U8") return;
  const StoredTensor c = *codes, map = g.need(prefix + "qmap" + number, name),
                     absmax = g.need(prefix + "absmax" + number, name);
  const int64_t n = claimed_elements(c.shape, f, name), block = 256;
  need_stored(map, "F32", 256, f);
  need_stored(absmax, "F32", blocks_of(n, block), f);
  g.replace({name}, packed_tensor(name, "bitsandbytes.DYNAMIC8", c.shape, kFloat32, c, [=] {
              const Tensor q = c.read(), table = map.read(), most = absmax.read();
              Tensor y = empty(c.shape, kFloat32);
              for (int64_t i = 0; i < n; ++i)
                y.data<float>()[i] =
                    table.data<float>()[q.data<std::uint8_t>()[i]] * most.data<float>()[i / block];
              return y;
            }));
}

}  // namespace

void unpack_bitsandbytes(TensorGroups& groups) {
  for (const char* kind : {"nf4", "fp4"})
    for (const std::string& name : groups.ending(join({".quant_state.bitsandbytes__", kind})))
      unpack_4bit(groups, name, kind);
  for (const std::string& prefix : groups.ending("SCB")) unpack_int8(groups, prefix);
  for (const char* number : {"1", "2"})
    for (const std::string& above :
         groups.ending(join({"__bnb_optimizer_quant_state__.qmap", number})))
      unpack_optimizer_state(groups, above + "__bnb_optimizer_quant_state__.", number);
}

}  // namespace dropin::serialize_detail
