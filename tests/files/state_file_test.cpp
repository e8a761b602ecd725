// load_state on safetensors and shards, and save_state: every dtype, names that stand for others.
#include "dropin/serialize/state_file.h"

#include "dropin/module/containers.h"
#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/atomic_file.h"
#include "dropin/serialize/model_file.h"
#include "dropin/serialize/save_state.h"
#include "files/safetensors_bytes.h"

namespace dropin {
namespace {

using testing::content;
using testing::TemporaryFolder;
using testing::write;

/// One tensor "x" of that dtype and shape.
std::string one(const std::string& dtype, const std::string& shape, const std::string& data) {
  return file("{\"x\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[0," +
                  std::to_string(data.size()) + "]}}",
              data);
}
StateFile opened(const TemporaryFolder& dir, const std::string& bytes,
                 const char* name = "m.safetensors") {
  write(dir / name, bytes);
  return load_state(dir / name);
}

TEST(StateFile, NumbersThatNoTensorHasAreConvertedExactly) {
  struct Case {
    const char *dtype, *shape;
    std::string data;
    DType read;
    std::vector<double> values;
  };
  const double nan = std::nan("");
  using namespace std::string_literals;
  const Case cases[] = {
      {"I16", "[2]", "\xff\xff\x00\x80"s, kInt32, {-1, -32768}},
      {"U16", "[2]", "\xff\xff\x01\x00"s, kInt32, {65535, 1}},
      {"U32", "[1]", "\xff\xff\xff\xff"s, kInt64, {4294967295.0}},
      {"U64", "[1]", "\x05\x00\x00\x00\x00\x00\x00\x00"s, kInt64, {5}},
      {"F8_E4M3", "[5]", "\x7e\xff\x38\x01\x80"s, kFloat32, {448, nan, 1, 0x1p-9, -0.0}},
      {"F8_E5M2", "[4]", "\x7b\xfc\x7e\x3c"s, kFloat32, {57344, -INFINITY, nan, 1}},
      {"F8_E4M3FNUZ", "[3]", "\x7f\x80\x40"s, kFloat32, {240, nan, 1}},
      {"F8_E5M2FNUZ", "[3]", "\x7f\x80\x40"s, kFloat32, {57344, nan, 1}},
      {"F8_E8M0", "[4]", "\x7f\xff\x00\xfe"s, kFloat32, {1, nan, 0x1p-127, 0x1p127}},
      {"F4", "[2,2]", "\x21\xf8"s, kFloat32, {0.5, 1, -0.0, -6}},
      {"F6_E2M3", "[4]", "\x1f\x02\x80"s, kFloat32, {7.5, 1, 0, -0.0}},
      {"F6_E3M2", "[4]", "\x1f\x00\x80"s, kFloat32, {28, 0, 0, -0.0}},
      {"C64", "[1]", "\x00\x00\x80\x3f\x00\x00\x00\xc0"s, kFloat32, {1, -2}},
      {"BF16", "[1]", "\x80\x3f"s, kBFloat16, {1}},
      {"BOOL", "[2]", "\x01\x00"s, kBool, {1, 0}}};
  for (const Case& c : cases) {
    TemporaryFolder dir;
    const StateFile f = opened(dir, one(c.dtype, c.shape, c.data));
    ASSERT_EQ(f.tensors.size(), 1u) << c.dtype;
    const StoredTensor& t = f.at("x");
    EXPECT_EQ(t.format, c.dtype);
    EXPECT_EQ(t.raw(), c.data);
    const Tensor x = t.read();
    EXPECT_EQ(x.dtype(), c.read) << c.dtype;
    EXPECT_EQ(x.sizes(), t.shape) << c.dtype;
    const std::vector<double> values = x.to_vector();
    ASSERT_EQ(values.size(), c.values.size()) << c.dtype;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(c.values[i])) {
        EXPECT_TRUE(std::isnan(values[i])) << c.dtype << " " << i;
        continue;
      }
      EXPECT_EQ(values[i], c.values[i]) << c.dtype << " " << i;
      EXPECT_EQ(std::signbit(values[i]), std::signbit(c.values[i])) << c.dtype << " " << i;
    }
    if (is_floating(c.read)) {
      EXPECT_EQ(f.get("x", kFloat64).dtype(), kFloat64);
    }
  }
}

TEST(StateFile, LongRowsOfSubByteCodesAreReadInTheirPlaces) {
  // More elements than are decoded at a time, so that a piece begins in the middle of a byte's run.
  const int64_t n = 3 * 65536 + 8;
  std::string four(static_cast<std::size_t>(n / 2), '\0'),
      six(static_cast<std::size_t>(n * 6 / 8), '\0');
  for (int64_t i = 0; i < n; ++i) {
    const int code = static_cast<int>(i * 7 % 64);
    const auto bit = static_cast<std::size_t>(6 * i);
    six[bit / 8] = static_cast<char>(six[bit / 8] | code << (bit % 8));
    if (bit % 8 > 2) six[bit / 8 + 1] = static_cast<char>(six[bit / 8 + 1] | code >> (8 - bit % 8));
    const auto half = static_cast<std::size_t>(i / 2);
    four[half] = static_cast<char>(four[half] | (code & 15) << (i % 2 * 4));
  }
  TemporaryFolder dir;
  const std::string shape = "[" + std::to_string(n) + "]";
  const Tensor a = opened(dir, one("F4", shape, four)).get("x"),
               b = opened(dir, one("F6_E2M3", shape, six)).get("x");
  const double e2m1[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  for (int64_t i = 0; i < n; ++i) {
    const int code = static_cast<int>(i * 7 % 64), e = code >> 3 & 3, m = code & 7;
    const double v = e ? std::ldexp(1 + m / 8.0, e - 1) : m / 8.0;
    ASSERT_EQ(b.data<float>()[i], code & 32 ? -v : v) << i;
    ASSERT_EQ(a.data<float>()[i], (code & 8 ? -1 : 1) * e2m1[code & 7]) << i;
  }
}

TEST(StateFile, WhatIsNotAskedForHindersNothing) {
  TemporaryFolder dir;
  write(dir / "m.safetensors", file(R"({"top":{"dtype":"U64","shape":[1],"data_offsets":[0,8]},)"
                                    R"("w":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                                    std::string(8, '\xff') + std::string("\0\0\x80\x3f", 4)));
  const StateFile f = load_state(dir / "m.safetensors");
  EXPECT_EQ(f.get("w").item(), 1);
  EXPECT_ERROR(f.get("top"), FileError, "beyond int64");
  EXPECT_EQ(f.at("top").raw(), std::string(8, '\xff'));
  EXPECT_ERROR(f.get("W"), FileError, "no tensor \"W\" among 2; the nearest is w");
  // A model takes what it needs, and says what is too much.
  Linear m({.in_features = 1, .out_features = 1, .bias = false});
  StateFile renamed = f;
  renamed.tensors[1].name = "weight";
  renamed.tensors[1].shape = {1, 1};
  EXPECT_ERROR(load(m, renamed), FileError, "beyond int64");
  const LoadReport r = load(m, renamed, false);
  EXPECT_EQ(r.unexpected, std::vector<std::string>{"top"});
}

TEST(StateFile, HeadersOfOtherWritersAreRead) {
  TemporaryFolder dir;
  const std::string data("\0\0\x80\x3f", 4),
      entry = R"("x":{"dtype":"F32","shape":[1],"data_offsets":[0,4])";
  for (const std::string& header :
       {R"({"__metadata__":null,)" + entry + "}}",  // MLX without metadata
        " \n{" + entry + "}}",                      // blanks first
        "{" + entry + R"(,"note":{"a":[1]}}})"}) {  // fields of later versions
    const StateFile f = opened(dir, file(header, data));
    EXPECT_EQ(f.get("x").item(), 1) << header;
    EXPECT_EQ(f.metadata.size(), 0u);
    EXPECT_EQ(load_safetensors(dir / "m.safetensors").get("x").item(), 1) << header;
  }
  EXPECT_ERROR(opened(dir, file(R"({"__metadata__":{"n":3},)" + entry + "}}", data)), FileError,
               "__metadata__ \"n\" is not a string");
  EXPECT_ERROR(opened(dir, one("F4", "[3]", "ab")), FileError, "does not fill whole bytes");
  EXPECT_ERROR(opened(dir, one("C128", "[1]", std::string(16, '\0'))), FileError,
               "\"C128\" is not");
  EXPECT_ERROR(opened(dir, one("C64", "[1,1,1,1,1,1,1,1]", std::string(8, '\0'))), FileError,
               "at most 8");
  EXPECT_ERROR(opened(dir, std::string("\x80\4\x95\1\0\0\0\0\0\0\1N.", 13)), FileError,
               "is a pickle that torch.save did not write");
}

TEST(StateFile, TiedNamesAreAliases) {
  TemporaryFolder dir;
  const Tensor w = full({2, 3}, 4);
  // safetensors' save_model
  save_safetensors(dir / "a.safetensors", {{"lm_head.weight", w}},
                   {{"wte.weight", "lm_head.weight"}, {"format", "pt"}});
  const StateFile a = load_state(dir / "a.safetensors");
  ASSERT_EQ(a.aliases.size(), 1u);
  EXPECT_EQ(a.get("wte.weight").to_vector(), w.to_vector());
  const StateDict all = a.state_dict();
  EXPECT_EQ(all.size(), 2u);
  EXPECT_TRUE(all.at("wte.weight").is_same(all.at("lm_head.weight")));
  EXPECT_ERROR(all.at("wte"), StateError, "no tensor \"wte\"");
  // huggingface_hub: in the index
  write(dir / "b.safetensors.index.json",
        R"({"metadata":{"total_size":24,"encoder.weight":"lm_head.weight"},)"
        R"("weight_map":{"lm_head.weight":"a.safetensors"}})");
  EXPECT_EQ(load_state(dir / "b.safetensors.index.json").get("encoder.weight").sizes(),
            (Shape{2, 3}));
  // transformers: by config.json and the model
  for (const auto& [config, embedding, ties] :
       std::vector<std::tuple<std::string, std::string, bool>>{
           {R"({"tie_word_embeddings":true})", "model.embed_tokens.weight", true},
           {R"({"tie_word_embeddings":false})", "model.embed_tokens.weight", false},
           {R"({"model_type":"gpt2"})", "transformer.wte.weight", true},
           {R"({"model_type":"llama"})", "model.embed_tokens.weight", false},
           {R"({broken)", "model.embed_tokens.weight", false}}) {
    write(dir / "config.json", config);
    save_safetensors(dir / "c.safetensors", {{embedding, w}});
    const StateFile c = load_state(dir / "c.safetensors");
    EXPECT_EQ(c.find("lm_head.weight") != nullptr, ties) << config;
  }
}

TEST(StateFile, FoldersAndFilesOfOtherKinds) {
  TemporaryFolder dir;
  EXPECT_ERROR(load_state(dir / ""), FileError, "is a folder without model.safetensors.index.json");
  save_safetensors(dir / "model.safetensors", {{"w", ones({2})}});
  EXPECT_EQ(load_state(dir / "").get("w").numel(), 2);
  EXPECT_EQ(load_state((dir / "").substr(0, (dir / "").size() - 1)).path,
            dir / "model.safetensors");
  write(dir / "notes.md", "# a page of text");
  EXPECT_ERROR(load_state(dir / "notes.md"), FileError, "begins as none of safetensors");
  write(dir / "empty", "");
  EXPECT_ERROR(load_state(dir / "empty"), FileError, "0 bytes; a safetensors file begins");
  write(dir / "x.json", "{\"a\": 1}");
  EXPECT_ERROR(load_state(dir / "x.json"), FileError, "is JSON without a weight_map");
}

TEST(StateFile, StateDictOfOneFloatingType) {
  TemporaryFolder dir;
  save_safetensors(
      dir / "m.safetensors",
      {{"a", ones({2}, kFloat64)}, {"n", ones({2}, kInt64)}, {"h", ones({2}, kFloat16)}});
  const StateDict s = load_state(dir / "m.safetensors").state_dict(kFloat32);
  EXPECT_EQ(s.at("a").dtype(), kFloat32);
  EXPECT_EQ(s["h"].dtype(), kFloat32);
  EXPECT_EQ(s["n"].dtype(), kInt64);
  EXPECT_ERROR(load_state(dir / "m.safetensors").state_dict(kInt8), DTypeError, "floating-point");
}

TEST(SaveState, FormatsRoundTrip) {
  TemporaryFolder dir;
  const Tensor x = tensor(std::vector<double>{0.3, -1.5, 448, 2, 0.0625, -0.1, 3, 6}, kFloat32)
                       .reshape({2, 4}),
               n = arange(0, 3);
  const std::vector<StoredTensor> tensors{stored_tensor("w", x), stored_tensor("n", n)};
  for (const char* format : {"", "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ",
                             "F8_E5M2FNUZ", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4"}) {
    const auto files = save_state(dir / "o.safetensors", tensors, {.format = format});
    ASSERT_EQ(files, std::vector<std::string>{dir / "o.safetensors"});
    const StateFile f = load_state(dir / "o.safetensors");
    EXPECT_EQ(f.at("w").format, *format ? format : "F32");
    EXPECT_EQ(f.get("n").to_vector(), n.to_vector()) << "integers stay";
    // Saved again it is the same: every value is one of the format's.
    const std::string once = content(dir / "o.safetensors");
    save_state(dir / "p.safetensors", f.tensors, {.format = format});
    EXPECT_EQ(content(dir / "p.safetensors"), once) << format;
    std::vector<StoredTensor> read{stored_tensor("w", f.get("w", kFloat32)), f.at("n")};
    save_state(dir / "p.safetensors", read, {.format = format});
    if (*format) {
      EXPECT_EQ(content(dir / "p.safetensors"), once) << format;
    }
  }
  save_state(dir / "t.safetensors", {stored_tensor("w", full({1}, 500))}, {.format = "F8_E4M3"});
  EXPECT_EQ(load_state(dir / "t.safetensors").get("w").item(), 448);
  save_state(dir / "t.safetensors", {stored_tensor("w", full({1}, 500))},
             {.format = "F8_E4M3", .conversion = "ml_dtypes"});
  EXPECT_TRUE(std::isnan(load_state(dir / "t.safetensors").get("w").item()));
}

TEST(SaveState, ShardsHoldAtMostTheirSizeAndAnIndex) {
  TemporaryFolder dir;
  std::vector<StoredTensor> tensors;
  for (int i = 0; i < 6; ++i)
    tensors.push_back(stored_tensor("t" + std::to_string(i), full({i == 2 ? 100 : 10}, i)));
  std::size_t calls = 0;
  SaveStateOptions options{.shard_size = 90};
  options.progress = [&](std::size_t done, std::size_t of, std::uint64_t) {
    EXPECT_EQ(done, ++calls);
    EXPECT_EQ(of, 6u);
  };
  const auto files = save_state(dir / "m.safetensors", tensors, options);
  EXPECT_EQ(calls, 6u);
  ASSERT_EQ(files.size(), 5u);  // t0 t1 | t2 | t3 t4 | t5, and the index
  EXPECT_EQ(files[0], dir / "m-00001-of-00004.safetensors");
  EXPECT_EQ(files[4], dir / "m.safetensors.index.json");
  const StateFile f = load_state(files[4]);
  EXPECT_EQ(f.tensors.size(), 6u);
  EXPECT_EQ(f.get("t2").to_vector(), full({100}, 2).to_vector());
  EXPECT_EQ(f.metadata.find("total_size")->as_int(), 600);
  const Json index = Json::parse(content(files[4]));
  EXPECT_EQ(index.find("weight_map")->find("t4")->as_string(), "m-00003-of-00004.safetensors");
}

TEST(SaveState, RefusesBeforeItWrites) {
  TemporaryFolder dir;
  const std::vector<StoredTensor> odd{stored_tensor("w", ones({3}))};
  EXPECT_ERROR(save_state(dir / "m.bin", odd), OptionError, "ends in .safetensors or .gguf");
  EXPECT_ERROR(save_state(dir / "m.safetensors", odd, {.format = "Q8_0"}), OptionError,
               "format is \"Q8_0\", expected one of F64");
  EXPECT_ERROR(save_state(dir / "m.safetensors", odd, {.format = "I32"}), OptionError, "format is");
  EXPECT_ERROR(save_state(dir / "m.safetensors", odd, {.format = "F4"}), OptionError,
               "does not fill whole bytes");
  EXPECT_ERROR(save_state(dir / "m.safetensors", odd, {.conversion = "numpy"}), OptionError,
               "expected torch or ml_dtypes");
  EXPECT_ERROR(save_state(dir / "m.safetensors", odd, {.shard_size = -1}), OptionError,
               "shard_size is -1");
  EXPECT_ERROR(save_state(dir / "m.gguf", odd, {.shard_size = 10}), OptionError, "shards");
  EXPECT_ERROR(stored_tensor("w", Tensor()), StateError, "undefined");
  EXPECT_EQ(dir.files(), 0u);
  fail_writes_after(40);
  EXPECT_ERROR(save_state(dir / "m.safetensors", odd), FileError, "No space left");
  fail_writes_after(-1);
  EXPECT_EQ(dir.files(), 0u) << "nothing is half-written";
}

TEST(Load, TakesOffWhatProgramsPutAroundWeights) {
  TemporaryFolder dir;
  Linear from({.in_features = 2, .out_features = 3}), to({.in_features = 2, .out_features = 3});
  const Tensor w = from.weight().detach(), b = from.bias().detach();
  for (const char* lead : {"module.", "_orig_mod.", "model.", "state_dict.",
                           "model_state_dict.module.", "model._orig_mod."}) {
    std::vector<std::pair<std::string, Tensor>> tensors{{std::string(lead) + "weight", w},
                                                        {std::string(lead) + "bias", b}};
    if (lead[0] == 's' || lead[1] == 'o')  // beside an optimizer's state, or all alone
      if (std::string(lead) != "_orig_mod." && std::string(lead) != "module.")
        tensors.emplace_back("optimizer.state.0.exp_avg", w);
    save_safetensors(dir / "m.safetensors", tensors);
    {
      no_grad guard;
      to.weight().fill_(0);
    }
    const LoadReport r = load(to, dir / "m.safetensors");
    EXPECT_EQ(to.weight().to_vector(), from.weight().to_vector()) << lead;
    EXPECT_FALSE(r.renamed.empty());
  }
  // A model that has a child of that name keeps it.
  ModuleDict s;
  s.add("module", make("Linear", Json::parse(R"({"in_features": 2, "out_features": 3})")));
  save_safetensors(dir / "m.safetensors", {{"module.weight", w}, {"module.bias", b}});
  EXPECT_TRUE(load(s, dir / "m.safetensors").renamed.empty());
}

}  // namespace
}  // namespace dropin
