// Packed layouts of other libraries: files as they write them, values worked out by hand.
#include "dropin/serialize/packed.h"

#include "dropin/projection/bitlinear.h"
#include "dropin/projection/mx_linear.h"
#include "dropin/serialize/model_file.h"
#include "dropin/serialize/safetensors.h"
#include "dropin/serialize/state_file.h"
#include "files/temporary.h"

namespace dropin {
namespace {

using testing::TemporaryFolder;
using testing::write;
using Tensors = std::vector<std::pair<std::string, Tensor>>;

Tensor bytes(const std::vector<int>& values, const Shape& shape) {
  Tensor t = empty(shape, kUInt8);
  for (std::size_t i = 0; i < values.size(); ++i)
    t.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(values[i]);
  return t;
}
Tensor text(const std::string& s) {
  return bytes({s.begin(), s.end()}, {static_cast<int64_t>(s.size())});
}
Tensor floats(const std::vector<double>& v, const Shape& shape) {
  return tensor(v, kFloat32).reshape(shape);
}
/// The same bytes under a dtype that no Tensor has.
void write_as(const TemporaryFolder& dir, const Tensors& tensors, const std::string& name,
              const std::string& dtype) {
  save_safetensors(dir / "m.safetensors", tensors);
  std::string all = testing::content(dir / "m.safetensors");
  const std::size_t at = all.find("\"" + name + "\":{\"dtype\":\"U8\"");
  ASSERT_NE(at, all.npos);
  const std::size_t end = at + name.size() + 2 + 11;
  std::string header = all.substr(8, end - 8) + dtype + all.substr(end + 2);
  std::uint64_t length = 0;
  std::memcpy(&length, all.data(), 8);
  length += dtype.size() - 2;
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  write(dir / "m.safetensors", out + header);
}
std::string refused(const TemporaryFolder& dir, const Tensors& tensors) {
  save_safetensors(dir / "m.safetensors", tensors);
  return testing::refusal<FileError>([&] { load_state(dir / "m.safetensors"); });
}
void expect_values(const Tensor& t, const std::vector<double>& v) {
  ASSERT_EQ(t.numel(), static_cast<int64_t>(v.size()));
  const std::vector<double> got = t.to_vector();
  for (std::size_t i = 0; i < v.size(); ++i) EXPECT_EQ(got[i], v[i]) << i;
}

TEST(Packed, BitsandbytesFourBits) {
  TemporaryFolder dir;
  std::vector<double> map(16);
  for (int i = 0; i < 16; ++i) map[static_cast<std::size_t>(i)] = i - 8;
  const std::string state = R"({"quant_type":"nf4","blocksize":4,"dtype":"float32","shape":[2,3]})";
  Tensors parts{{"fc.weight", bytes({0x0f, 0x9a, 0x78}, {3, 1})},
                {"fc.weight.absmax", floats({2, 0.5}, {2})},
                {"fc.weight.quant_map", floats(map, {16})},
                {"fc.weight.quant_state.bitsandbytes__nf4", text(state)},
                {"fc.bias", ones({2})}};
  save_safetensors(dir / "m.safetensors", parts);
  const StateFile f = load_state(dir / "m.safetensors");
  ASSERT_EQ(f.tensors.size(), 2u) << "the parts are one weight";
  EXPECT_EQ(f.at("fc.weight").format, "bitsandbytes.NF4");
  EXPECT_EQ(f.at("fc.weight").shape, (Shape{2, 3}));
  // High nibble first, four values per scale of the flat tensor.
  expect_values(f.get("fc.weight"), {-16, 14, 2, 4, -0.5, 0});
  EXPECT_EQ(load_state(dir / "m.safetensors", {.unpack = false}).tensors.size(), 5u);
  // Scales that are quantized themselves, and another dtype.
  std::vector<double> nested(256, 0);
  nested[3] = 0.5;
  nested[7] = -0.25;
  parts[1].second = bytes({3, 7}, {2});
  parts[3].second = text(R"({"quant_type":"nf4","blocksize":4,"dtype":"bfloat16","shape":[2,3],)"
                         R"("nested_blocksize":256,"nested_dtype":"float32","nested_offset":1})");
  parts.emplace_back("fc.weight.nested_absmax", floats({2}, {1}));
  parts.emplace_back("fc.weight.nested_quant_map", floats(nested, {256}));
  save_safetensors(dir / "m.safetensors", parts);
  const Tensor w = load_state(dir / "m.safetensors").get("fc.weight");
  EXPECT_EQ(w.dtype(), kBFloat16);
  expect_values(w, {-16, 14, 2, 4, -0.5, 0});  // 2 0.5 + 1, 2 (-0.25) + 1
}

TEST(Packed, BitsandbytesPartsThatDoNotFitAreNamed) {
  TemporaryFolder dir;
  const auto parts = [](const std::string& state, int scales, int64_t map) -> Tensors {
    return {{"w", bytes({0, 0, 0}, {3, 1})},
            {"w.absmax", ones({scales})},
            {"w.quant_map", ones({map})},
            {"w.quant_state.bitsandbytes__fp4", text(state)}};
  };
  const std::string good = R"({"blocksize":4,"dtype":"float32","shape":[2,3]})";
  EXPECT_NE(refused(dir, parts(good, 3, 16)).find("\"w.absmax\": F32 [3], expected 2 of F32"),
            std::string::npos);
  EXPECT_NE(refused(dir, parts(good, 2, 15)).find("expected 16 of F32"), std::string::npos);
  for (const auto& [state, words] : std::vector<std::pair<std::string, std::string>>{
           {"{", "json"},
           {R"({"dtype":"float32","shape":[2,3]})", "no positive \"blocksize\""},
           {R"({"blocksize":0,"dtype":"float32","shape":[2,3]})", "no positive \"blocksize\""},
           {R"({"blocksize":4,"dtype":"int8","shape":[2,3]})", "dtype is \"int8\""},
           {R"({"blocksize":4,"dtype":"float32"})", "no shape"},
           {R"({"blocksize":4,"dtype":"float32","shape":[-2,3]})", "no size"},
           {R"({"blocksize":4,"dtype":"float32","shape":[4611686018427387904,4]})", "too many"},
           {R"({"blocksize":4,"dtype":"float32","shape":[2,9]})", "expected 9 of U8"}})
    EXPECT_NE(refused(dir, parts(state, 2, 16)).find(words), std::string::npos) << state;
  Tensors without = parts(good, 2, 16);
  without.erase(without.begin() + 1);
  EXPECT_NE(refused(dir, without).find("needs \"w.absmax\", which is not there"),
            std::string::npos);
}

TEST(Packed, BitsandbytesRowsOfInt8) {
  TemporaryFolder dir;
  Tensors parts{
      {"fc.weight", tensor(std::vector<double>{127, -64, 1, 0}).to(kInt8).reshape({2, 2})},
      {"fc.SCB", floats({127, 12.7}, {2})},
      {"fc.weight_format", bytes({0}, {})}};
  save_safetensors(dir / "m.safetensors", parts);
  const StateFile f = load_state(dir / "m.safetensors");
  ASSERT_EQ(f.tensors.size(), 1u);
  expect_values(f.get("fc.weight"), {127, -64, static_cast<double>(12.7f / 127.f), 0});
  parts[2].second = bytes({2}, {});
  EXPECT_NE(refused(dir, parts).find("expected 0: rows in order"), std::string::npos);
}

TEST(Packed, BlocksOfFloat8) {
  TemporaryFolder dir;
  // 1 2 | 4 8 by scales of 2 x 1 blocks; the name says "inv", and it multiplies.
  write_as(dir,
           {{"a.weight", bytes({0x38, 0x40, 0x48, 0x50}, {2, 2})},
            {"a.weight_scale_inv", floats({0.5, 10}, {1, 2})}},
           "a.weight", "F8_E4M3");
  const StateFile f = load_state(dir / "m.safetensors");
  EXPECT_EQ(f.at("a.weight").format, "scaled.F8_E4M3");
  expect_values(f.get("a.weight"), {0.5, 20, 2, 80});
  // One scale a row.
  write_as(dir,
           {{"a.weight", bytes({0x38, 0x40, 0x48, 0x50}, {2, 2})},
            {"a.weight_scale", floats({0.5, 10}, {2, 1})}},
           "a.weight", "F8_E4M3");
  expect_values(load_state(dir / "m.safetensors").get("a.weight"), {0.5, 1, 40, 80});
  write_as(dir,
           {{"a.weight", bytes({0x38, 0x40, 0x48, 0x50}, {2, 2})},
            {"a.weight_scale_inv", floats({1, 1, 1}, {3, 1})}},
           "a.weight", "F8_E4M3");
  EXPECT_ERROR(load_state(dir / "m.safetensors"), FileError, "3 scales along axis 0");
  // DeepSeek's blocks of 128, the last shorter.
  write(dir / "config.json", R"({"quantization_config":{"weight_block_size":[2,2]}})");
  write_as(dir,
           {{"a.weight", bytes(std::vector<int>(9, 0x38), {3, 3})},
            {"a.weight_scale_inv", floats({1, 2, 3, 4}, {2, 2})}},
           "a.weight", "F8_E4M3");
  expect_values(load_state(dir / "m.safetensors").get("a.weight"), {1, 1, 2, 1, 1, 2, 3, 3, 4});
}

TEST(Packed, GptOssExperts) {
  TemporaryFolder dir;
  Tensor blocks = zeros({1, 2, 1, 16}, kUInt8), scales = bytes({127, 129}, {1, 2, 1});
  blocks.data<std::uint8_t>()[0] = 0x92;        // row 0: 1, -0.5
  blocks.data<std::uint8_t>()[16 + 15] = 0x7f;  // row 1, elements 30, 31: -6, 6
  save_safetensors(dir / "m.safetensors",
                   {{"e.down_proj_blocks", blocks}, {"e.down_proj_scales", scales}});
  const StateFile f = load_state(dir / "m.safetensors");
  ASSERT_EQ(f.tensors.size(), 1u);
  const Tensor w = f.get("e.down_proj");
  EXPECT_EQ(w.sizes(), (Shape{1, 32, 2})) << "the axes change places";
  EXPECT_EQ(w[0][0][0].item(), 1);
  EXPECT_EQ(w[0][1][0].item(), -0.5);
  EXPECT_EQ(w[0][30][1].item(), -24);
  EXPECT_EQ(w[0][31][1].item(), 24);
  // The ends of the scale byte's range: no NaN.
  Tensor one = zeros({1, 1, 1, 16}, kUInt8);
  one.data<std::uint8_t>()[0] = 0x21;  // 0.5, 1
  EXPECT_EQ(unpack_mxfp4(one, bytes({255}, {1, 1, 1})).to_vector()[0], 0x1p127);
  EXPECT_EQ(unpack_mxfp4(one, bytes({255}, {1, 1, 1})).to_vector()[1], INFINITY);
  EXPECT_EQ(unpack_mxfp4(one, bytes({0}, {1, 1, 1})).to_vector()[1], 0x1p-127);
  EXPECT_ERROR(unpack_mxfp4(one, ones({1, 1, 1})), DTypeError, "expected uint8");
  EXPECT_ERROR(unpack_mxfp4(one, bytes({1, 1}, {1, 1, 2})), ShapeError, "[.., rows, groups, 16]");
}

TEST(Packed, BitNetsScaleHasTwoMeanings) {
  TemporaryFolder dir;
  // Rows 0 to 3 of one column: -1, 0, 1, 1.
  const Tensors parts{{"p.weight", bytes({0xa4}, {1, 1})}, {"p.weight_scale", floats({4}, {1})}};
  save_safetensors(dir / "m.safetensors", parts);
  EXPECT_EQ(load_state(dir / "m.safetensors").tensors.size(), 2u)
      << "nothing says that it is BitNet";
  const auto config = [&](const std::string& kind) {
    write(dir / "config.json", R"({"quantization_config":{"quant_method":"bitnet")" + kind + "}}");
    return load_state(dir / "m.safetensors");
  };
  expect_values(config("").get("p.weight"), {-0.25, 0, 0.25, 0.25});
  expect_values(config(R"(,"linear_class":"bitlinear")").get("p.weight"), {-0.25, 0, 0.25, 0.25});
  expect_values(config(R"(,"linear_class":"autobitlinear")").get("p.weight"), {-4, 0, 4, 4});
  EXPECT_ERROR(config(R"(,"linear_class":"other")"), FileError, "linear_class is \"other\"");
}

TEST(Packed, TernaryRowsRoundTrip) {
  const Tensor six = tensor(std::vector<double>{-1, 0, 1, 1, 0, -1}).reshape({6, 1});
  const Tensor packed = pack_ternary(six);
  EXPECT_EQ(packed.sizes(), (Shape{2, 1}));
  EXPECT_EQ(unpack_ternary(packed, 6).to_vector(), six.to_vector());
  expect_values(unpack_ternary(packed), {-1, 0, 1, 1, 0, -1, -1, -1});  // what fills up reads -1
  EXPECT_ERROR(pack_ternary(full({1, 2}, 2)), OptionError, "the value at [0, 0] is 2");
  EXPECT_ERROR(unpack_ternary(packed, 9), ShapeError, "holds 8");
  EXPECT_ERROR(unpack_ternary(ones({2, 2})), DTypeError, "expected uint8");
}

/// y of transformers' layer for one row x: int8 activations, ternary sums, the scale's meaning.
std::vector<double> bitnet_layer(const Tensor& x, const Tensor& ternary, float scale,
                                 const std::vector<double>& bias, bool divides) {
  const std::vector<double> v = x.to_vector();
  double most = 1e-5;
  for (const double a : v) most = std::max(most, std::fabs(a));
  const double s = 127 / most;
  std::vector<double> y;
  for (int64_t r = 0; r < ternary.size(0); ++r) {
    double sum = 0;
    for (std::size_t c = 0; c < v.size(); ++c)
      sum += std::nearbyint(v[c] * s) * ternary[r][static_cast<int64_t>(c)].item();
    const double b = bias[static_cast<std::size_t>(r)];
    y.push_back(divides ? sum / s / static_cast<double>(scale) + b
                        : (sum / s + b) * static_cast<double>(scale));
  }
  return y;
}

TEST(Packed, BitNetFillsBitLinear) {
  TemporaryFolder dir;
  Tensor ternary = empty({8, 5}, kInt8);
  for (int64_t i = 0; i < 40; ++i)
    ternary.data<std::int8_t>()[i] = static_cast<std::int8_t>(i * 7 % 3 - 1);
  const std::vector<double> bias{1, -1, 0.5, 0, 2, -2, 0.25, 3};
  const Tensor x = floats({0.3, -1.2, 0.01, 0.8, -0.4}, {1, 5});
  save_safetensors(dir / "m.safetensors", {{"weight", pack_ternary(ternary)},
                                           {"weight_scale", floats({1.5}, {1})},
                                           {"bias", floats(bias, {8})}});
  for (const bool divides : {true, false}) {
    write(dir / "config.json",
          std::string(R"({"quantization_config":{"quant_method":"bitnet","linear_class":")") +
              (divides ? "bitlinear" : "autobitlinear") + "\"}}");
    BitLinear m({.in_features = 5, .out_features = 8, .variant = "b1.58", .norm = "none"});
    load(m, load_state(dir / "m.safetensors", {.for_bitlinear = true}));
    EXPECT_TRUE(m.packed());
    m.eval();
    no_grad guard;
    const std::vector<double> y = m(x).to_vector(),
                              want = bitnet_layer(x, ternary, 1.5f, bias, divides);
    for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(y[i], want[i], 1e-6) << divides << " " << i;
    const BitPackedWeight ours =
        bitnet_to_bitlinear(pack_ternary(ternary), floats({1.5}, {1}), divides);
    const BitNetWeight back = bitlinear_to_bitnet(ours, 5, divides);
    EXPECT_EQ(back.packed.to_vector(), pack_ternary(ternary).to_vector());
    EXPECT_FLOAT_EQ(static_cast<float>(back.scale.item()), 1.5f);
  }
  EXPECT_ERROR(bitnet_to_bitlinear(pack_ternary(ternary), floats({0}, {1}), true), OptionError,
               "scale is 0");
  EXPECT_ERROR(bitnet_to_bitlinear(bytes({0xff}, {1, 1}), ones({1}), true), OptionError,
               "is 3, expected 0 to 2");
}

TEST(Packed, BlocksFillMXLinear) {
  TemporaryFolder dir;
  Tensor blocks = empty({2, 3, 2, 16}, kUInt8);
  for (int64_t i = 0; i < blocks.numel(); ++i)
    blocks.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 53 + 7);
  Tensor scales = bytes({127, 126, 128, 125, 127, 127, 124, 128, 127, 126, 127, 129}, {2, 3, 2});
  save_safetensors(dir / "m.safetensors", {{"e.up_blocks", blocks},
                                           {"e.up_scales", scales},
                                           {"e.up_bias", floats({1, 2, 3, 4, 5, 6}, {2, 3})}});
  const StateFile parts = load_state(dir / "m.safetensors", {.unpack = false});
  const Tensor whole = load_state(dir / "m.safetensors").get("e.up");  // [experts, 64, 3]
  const Tensor x = testing::random({4, 64}, kFloat32, 3);
  for (int64_t e = 0; e < 2; ++e) {
    MXLinear m({.in_features = 64,
                .out_features = 3,
                .weight_format = "MXFP4_E2M1",
                .act_format = "none"});
    m.load_state_dict(mx_linear_state(parts, "e.up", e));
    EXPECT_TRUE(m.frozen());
    m.eval();
    no_grad guard;
    const Tensor want = matmul(x, whole[e]) + load_state(dir / "m.safetensors").get("e.up_bias")[e];
    EXPECT_LT(max(abs(m(x) - want)).item(), 1e-4);
  }
  EXPECT_ERROR(mx_linear_state(parts, "e.up", 2), ShapeError, "has 2 experts, there is no 2");
  EXPECT_ERROR(mx_linear_state(parts, "e.down", 0), FileError, "no tensor \"e.down_blocks\"");
  scales.data<std::uint8_t>()[0] = 255;
  save_safetensors(dir / "m.safetensors", {{"e.up_blocks", blocks}, {"e.up_scales", scales}});
  EXPECT_ERROR(mx_linear_state(load_state(dir / "m.safetensors", {.unpack = false}), "e.up", 0),
               OptionError, "holds 255");
}

TEST(Packed, WordsOfAnyWidthRoundTrip) {
  for (int bits = 1; bits <= 8; ++bits) {
    const int64_t columns = 37, half = int64_t{1} << (bits - 1);
    Tensor v = empty({3, columns}, kInt64);
    for (int64_t i = 0; i < v.numel(); ++i) v.data<int64_t>()[i] = i * 11 % (2 * half) - half;
    const Tensor packed = pack_int32(v, bits);
    EXPECT_EQ(packed.sizes(), (Shape{3, (columns * bits + 31) / 32}));
    EXPECT_EQ(unpack_int32(packed, bits, columns).to_vector(), v.to_vector()) << bits;
  }
  EXPECT_ERROR(pack_int32(full({1, 1}, 4, kInt64), 3), OptionError, "is 4, expected -4 to 3");
  EXPECT_ERROR(unpack_int32(zeros({1, 2}, kInt32), 4, 20), ShapeError,
               "20 columns of 4 bits need 3");
  EXPECT_ERROR(unpack_int32(zeros({1, 2}, kInt32), 9, 1), OptionError, "bits is 9");
}

TEST(Packed, CompressedTensorsIntegers) {
  TemporaryFolder dir;
  write(dir / "config.json",
        R"({"quantization_config":{"config_groups":{"group_0":{"weights":{"num_bits":4}}}}})");
  Tensor q = empty({3, 8}, kInt64);
  for (int64_t i = 0; i < 24; ++i) q.data<int64_t>()[i] = i % 16 - 8;
  const Tensor zero =
      tensor(std::vector<double>{1, -2, 3, 0, 0, 7}).reshape({3, 2});  // rows, groups
  Tensors parts{{"l.weight_packed", pack_int32(q, 4)},
                {"l.weight_scale", floats({1, 2, 4, 8, 0.5, 1}, {3, 2})},
                {"l.weight_shape", tensor(std::vector<double>{3, 8}).to(kInt64)},
                {"l.weight_zero_point", pack_int32(zero.t().contiguous(), 4).t().contiguous()}};
  save_safetensors(dir / "m.safetensors", parts);
  const StateFile f = load_state(dir / "m.safetensors");
  ASSERT_EQ(f.tensors.size(), 1u);
  EXPECT_EQ(f.at("l.weight").format, "compressed_tensors.INT4");
  const Tensor w = f.get("l.weight");
  const double scale[] = {1, 2, 4, 8, 0.5, 1}, z[] = {1, -2, 3, 0, 0, 7};
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 8; ++c)
      EXPECT_EQ(w[r][c].item(), (static_cast<double>(q[r][c].item<int64_t>()) - z[2 * r + c / 4]) *
                                    scale[2 * r + c / 4]);
  std::filesystem::remove(dir / "config.json");
  EXPECT_NE(refused(dir, parts).find("more than one number of bits (there is no config.json"),
            std::string::npos);
  parts.erase(parts.begin() + 2);
  EXPECT_NE(refused(dir, parts).find("needs \"l.weight_shape\""), std::string::npos);
}

TEST(Packed, CompressedTensorsFloats) {
  TemporaryFolder dir;
  // NVFP4: 16 codes a scale; the tensor's scale divides.
  std::vector<int> codes(8, 0x21);  // 0.5, 1
  write_as(dir,
           {{"l.weight_packed", bytes(codes, {1, 8})},
            {"l.weight_scale", bytes({0x40}, {1, 1})},  // 2
            {"l.weight_global_scale", floats({4}, {1})}},
           "l.weight_scale", "F8_E4M3");
  const StateFile nv = load_state(dir / "m.safetensors");
  EXPECT_EQ(nv.at("l.weight").format, "compressed_tensors.NVFP4");
  EXPECT_EQ(nv.get("l.weight").dtype(), kBFloat16);
  EXPECT_EQ(nv.get("l.weight").to_vector()[0], 0.25);
  EXPECT_EQ(nv.get("l.weight").to_vector()[15], 0.5);
  // MXFP4 and MXFP6: a power of two for 32.
  save_safetensors(dir / "m.safetensors",
                   {{"l.weight_packed", bytes(std::vector<int>(16, 0x21), {1, 16})},
                    {"l.weight_scale", bytes({128}, {1, 1})}});
  EXPECT_EQ(load_state(dir / "m.safetensors").get("l.weight").to_vector()[1], 2);
  save_safetensors(dir / "m.safetensors",
                   {{"l.weight_packed", bytes(std::vector<int>(24, 0), {1, 24})},
                    {"l.weight_scale", bytes({128}, {1, 1})}});
  EXPECT_EQ(load_state(dir / "m.safetensors").at("l.weight").format, "compressed_tensors.MXFP6");
  EXPECT_NE(refused(dir, {{"l.weight_packed", bytes(std::vector<int>(20, 0), {1, 20})},
                          {"l.weight_scale", bytes({128}, {1, 1})}})
                .find("20 bytes a row for 32 values"),
            std::string::npos);
}

TEST(Packed, TorchaosFlatState) {
  TemporaryFolder dir;
  const std::string mx =
      R"({"_type":"MXTensor","_data":{"elem_dtype":{"_type":"torch.dtype","_data":"float4_e2m1fn_x2"},)"
      R"("block_size":32,"is_swizzled_scales":false}})";
  save_safetensors(dir / "m.safetensors",
                   {{"fc._weight_qdata", bytes(std::vector<int>(16, 0x21), {1, 16})},
                    {"fc._weight_scale", bytes({128}, {1, 1})},
                    {"fc.bias", ones({1})}},
                   {{"tensor_names", "[\"fc.weight\", \"fc.bias\"]"},
                    {"fc.weight", mx},
                    {"fc.bias", "{\"_type\": \"Tensor\"}"}});
  const StateFile f = load_state(dir / "m.safetensors");
  ASSERT_EQ(f.tensors.size(), 2u);
  EXPECT_EQ(f.at("fc.weight").format, "torchao.MXFP4");
  EXPECT_EQ(f.get("fc.weight").to_vector()[0], 1);
  std::string swizzled = mx;
  swizzled.replace(swizzled.find("false"), 5, "true");
  save_safetensors(dir / "m.safetensors",
                   {{"fc._weight_qdata", bytes(std::vector<int>(16, 0), {1, 16})},
                    {"fc._weight_scale", bytes({128}, {1, 1})}},
                   {{"tensor_names", "[]"}, {"fc.weight", swizzled}});
  EXPECT_ERROR(load_state(dir / "m.safetensors"), FileError, "swizzled");
}

}  // namespace
}  // namespace dropin
