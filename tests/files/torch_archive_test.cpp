// PyTorch's archives: tensors by storage and view, names, byte orders, the older format.
#include <random>

#include "files/archive_bytes.h"

namespace dropin {
namespace {

using namespace testing;
using namespace pickled;

using Doubles = std::vector<double>;

std::string floats(const std::vector<float>& v) { return bytes_of(v); }
/// A tensor of all of storage "0".
std::string all_of(const std::string& type, std::int64_t n) {
  return tensor(storage(type, "0", n), 0, {n}, {1});
}
StateFile load_one(const std::string& tensor_, const std::string& bytes,
                   const std::string& order = "little") {
  return load(torch_archive(whole(dict({text("t"), tensor_})), {bytes}, order).bytes);
}
std::string words_of(const std::string& tensor_, const std::string& bytes) {
  return refusal<FileError>([&] { load_one(tensor_, bytes); });
}
#define EXPECT_WORDS_OF(TENSOR, BYTES, WORDS) \
  EXPECT_NE(words_of(TENSOR, BYTES).find(WORDS), std::string::npos) << words_of(TENSOR, BYTES)

struct DTypeCase {
  const char *storage, *dtype, *format;  ///< dtype: of the third form, whose storages are untyped
  int bytes;                             ///< of an element
  std::string data;
  DType loaded;
  Shape shape;
  Doubles values;
};
std::vector<DTypeCase> typed_cases() {
  const auto hex = [](const char* digits) { return from_hex(digits); };
  return {
      {"FloatStorage", "", "F32", 4, floats({1.5f, -2}), kFloat32, {2}, {1.5, -2}},
      {"DoubleStorage", "", "F64", 8, bytes_of<double>({0.1, -2}), kFloat64, {2}, {0.1, -2}},
      {"HalfStorage", "", "F16", 2, hex("003e00c0"), kFloat16, {2}, {1.5, -2}},
      {"BFloat16Storage", "", "BF16", 2, hex("c03f00c0"), kBFloat16, {2}, {1.5, -2}},
      {"LongStorage",
       "",
       "I64",
       8,
       bytes_of<std::int64_t>({1, -(1ll << 40)}),
       kInt64,
       {2},
       {1, -1099511627776.}},
      {"IntStorage", "", "I32", 4, bytes_of<std::int32_t>({1, -70000}), kInt32, {2}, {1, -70000}},
      {"ShortStorage", "", "I16", 2, bytes_of<std::int16_t>({1, -300}), kInt32, {2}, {1, -300}},
      {"CharStorage", "", "I8", 1, hex("01ff"), kInt8, {2}, {1, -1}},
      {"ByteStorage", "", "U8", 1, hex("01ff"), kUInt8, {2}, {1, 255}},
      {"BoolStorage", "", "BOOL", 1, hex("0100"), kBool, {2}, {1, 0}},
      {"ComplexFloatStorage", "", "C64", 8, floats({1, 2, 3, -4}), kFloat32, {2, 2}, {1, 2, 3, -4}},
      {"ComplexDoubleStorage",
       "",
       "C128",
       16,
       bytes_of<double>({1, 2, 3, -4}),
       kFloat64,
       {2, 2},
       {1, 2, 3, -4}}};
}
std::vector<DTypeCase> untyped_cases() {
  const auto hex = [](const char* digits) { return from_hex(digits); };
  return {
      {"UntypedStorage", "uint16", "U16", 2, hex("0100ffff"), kInt32, {2}, {1, 65535}},
      {"UntypedStorage",
       "uint32",
       "U32",
       4,
       hex("01000000ffffffff"),
       kInt64,
       {2},
       {1, 4294967295.}},
      {"UntypedStorage",
       "uint64",
       "U64",
       8,
       bytes_of<std::int64_t>({1, 1ll << 40}),
       kInt64,
       {2},
       {1, 1099511627776.}},
      {"UntypedStorage", "float8_e4m3fn", "F8_E4M3", 1, hex("3c7e"), kFloat32, {2}, {1.5, 448}},
      {"UntypedStorage", "float8_e5m2", "F8_E5M2", 1, hex("3ec0"), kFloat32, {2}, {1.5, -2}},
      {"UntypedStorage",
       "float8_e4m3fnuz",
       "F8_E4M3FNUZ",
       1,
       hex("447f"),
       kFloat32,
       {2},
       {1.5, 240}},
      {"UntypedStorage",
       "float8_e5m2fnuz",
       "F8_E5M2FNUZ",
       1,
       hex("42c4"),
       kFloat32,
       {2},
       {1.5, -2}},
      {"UntypedStorage", "float8_e8m0fnu", "F8_E8M0", 1, hex("7f82"), kFloat32, {2}, {1, 8}},
      {"UntypedStorage",
       "float4_e2m1fn_x2",
       "F4",
       1,
       hex("31f6"),
       kFloat32,
       {4},
       {0.5, 1.5, 4, -6}},
  };
}

std::vector<DTypeCase> dtype_cases() {
  std::vector<DTypeCase> all = typed_cases();
  for (DTypeCase& c : untyped_cases()) all.push_back(std::move(c));
  return all;
}

TEST(TorchArchive, ReadsEachDType) {
  for (const DTypeCase& c : dtype_cases()) {
    const bool typed = !*c.dtype;
    const auto bytes = static_cast<std::int64_t>(c.data.size()), n = bytes / c.bytes;
    const std::string t =
        typed ? all_of(c.storage, n)
              : tensor_v3(storage("UntypedStorage", "0", bytes), 0, {n}, {1}, c.dtype);
    const StateFile f = load_one(t, c.data);
    ASSERT_EQ(f.tensors.size(), 1u) << c.format;
    EXPECT_EQ(f.container, "pt");
    EXPECT_EQ(f.tensors[0].format, c.format);
    EXPECT_EQ(f.tensors[0].dtype, c.loaded) << c.format;
    EXPECT_EQ(f.tensors[0].shape, c.shape) << c.format;
    EXPECT_EQ(f.tensors[0].raw(), c.data) << c.format;
    const Tensor loaded = f.get("t");
    EXPECT_EQ(loaded.dtype(), c.loaded) << c.format;
    EXPECT_EQ(loaded.sizes(), c.shape) << c.format;
    EXPECT_EQ(loaded.to_vector(), c.values) << c.format;
  }
}

TEST(TorchArchive, SwapsWhatBigEndianMachinesWrote) {
  for (const DTypeCase& c : dtype_cases()) {
    const bool typed = !*c.dtype;
    const int part = c.bytes / (std::string_view(c.format).starts_with("C") ? 2 : 1);
    std::string swapped = c.data;
    for (std::size_t i = 0; i < swapped.size(); i += static_cast<std::size_t>(part))
      std::reverse(swapped.begin() + static_cast<std::ptrdiff_t>(i),
                   swapped.begin() + static_cast<std::ptrdiff_t>(i) + part);
    const auto bytes = static_cast<std::int64_t>(c.data.size()), n = bytes / c.bytes;
    const std::string t =
        typed ? all_of(c.storage, n)
              : tensor_v3(storage("UntypedStorage", "0", bytes), 0, {n}, {1}, c.dtype);
    const StateFile f = load_one(t, swapped, "big");
    EXPECT_EQ(f.get("t").to_vector(), c.values) << c.format;
    EXPECT_EQ(f.tensors[0].raw(), c.data) << c.format;
  }
  EXPECT_ERROR(load_one(all_of("FloatStorage", 1), floats({1}), "middle"), FileError,
               "byteorder is \"middle\", expected little or big");
  EXPECT_EQ(load_one(all_of("FloatStorage", 1), floats({1}), "").get("t").item(), 1.0);
}

TEST(TorchArchive, ReadsViewsOfAStorage) {
  const std::string bytes = floats({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  const std::string s = storage("FloatStorage", "0", 12);
  const auto view = [&](std::int64_t offset, const std::vector<std::int64_t>& sizes,
                        const std::vector<std::int64_t>& strides) {
    const StateFile f = load_one(tensor(s, offset, sizes, strides), bytes);
    EXPECT_EQ(f.tensors[0].shape, Shape(sizes));
    EXPECT_EQ(f.tensors[0].raw().size(), f.tensors[0].bytes);
    return f.get("t").to_vector();
  };
  EXPECT_EQ(view(0, {3, 4}, {4, 1}), (Doubles{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(view(0, {4, 3}, {1, 4}),
            (Doubles{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}));               // transposed
  EXPECT_EQ(view(1, {3}, {4}), (Doubles{1, 5, 9}));                         // a column
  EXPECT_EQ(view(4, {2, 4}, {4, 1}), (Doubles{4, 5, 6, 7, 8, 9, 10, 11}));  // rows
  EXPECT_EQ(view(0, {2, 2}, {8, 2}), (Doubles{0, 2, 8, 10}));
  EXPECT_EQ(view(3, {2, 3}, {0, 1}), (Doubles{3, 4, 5, 3, 4, 5}));           // repeated
  EXPECT_EQ(view(0, {3, 3}, {1, 1}), (Doubles{0, 1, 2, 1, 2, 3, 2, 3, 4}));  // overlapping
  EXPECT_EQ(view(11, {}, {}), (Doubles{11}));
  EXPECT_EQ(view(11, {1, 1}, {1000, 1}), (Doubles{11}));
  EXPECT_EQ(view(12, {0, 4}, {4, 1}), Doubles{});
  EXPECT_EQ(view(99, {4, 0}, {1, 1}), Doubles{});
}

TEST(TorchArchive, RefusesViewsBeyondTheirStorage) {
  const std::string bytes = floats({0, 1, 2, 3, 4, 5});
  const std::string s = storage("FloatStorage", "0", 6);
  const std::int64_t big = std::int64_t{1} << 62;
  EXPECT_WORDS_OF(tensor(s, 0, {7}, {1}), bytes, "needs 7 elements of storage 0, which has 6");
  EXPECT_WORDS_OF(tensor(s, 1, {6}, {1}), bytes, "needs 7 elements");
  EXPECT_WORDS_OF(tensor(s, 7, {}, {}), bytes, "needs 8 elements");
  EXPECT_WORDS_OF(tensor(s, big, {1}, {1}), bytes, "elements of storage 0");
  EXPECT_WORDS_OF(tensor(s, 0, {2, 3}, {4, 1}), bytes, "needs 7 elements");
  EXPECT_WORDS_OF(tensor(s, 0, {3}, {big}), bytes, "strides reach further than can be counted");
  EXPECT_WORDS_OF(tensor(s, 0, {big, big}, {0, 0}), bytes, "more elements than can be counted");
  EXPECT_WORDS_OF(tensor(s, 0, {0, big, big}, {0, 0, 0}), bytes,
                  "more elements than can be counted");
  EXPECT_WORDS_OF(tensor(s, 0, {std::int64_t{1} << 40}, {0}), bytes, "of a storage of 24 bytes");
  EXPECT_WORDS_OF(tensor(s, 0, {-1}, {1}), bytes, "a tensor's size is no count");
  EXPECT_WORDS_OF(tensor(s, 0, {1}, {-1}), bytes, "a tensor's stride is no count");
  EXPECT_WORDS_OF(tensor(s, -1, {1}, {1}), bytes, "a tensor's offset is no count");
  EXPECT_WORDS_OF(tensor(s, 0, {1, 1}, {1}), bytes, "a tensor has 2 sizes and 1 strides");
  EXPECT_WORDS_OF(tensor(s, 0, std::vector<std::int64_t>(9, 1), std::vector<std::int64_t>(9, 1)),
                  bytes, "is no tuple of at most 8");
}

TEST(TorchArchive, RefusesTensorsThatAreNotBuiltAsTorchDoes) {
  const std::string s = storage("FloatStorage", "0", 1),
                    untyped = storage("UntypedStorage", "0", 4);
  const std::string bytes = floats({1});
  const std::string v2 = global("torch._utils", "_rebuild_tensor_v2");
  EXPECT_WORDS_OF(call(v2, {s, number(0), numbers({1})}), bytes,
                  "is not called with a storage, offset, sizes and strides");
  EXPECT_WORDS_OF(call(v2, {number(1), number(0), numbers({1}), numbers({1})}), bytes,
                  "is not called with a storage");
  EXPECT_WORDS_OF(tensor(untyped, 0, {1}, {1}), bytes, "untyped storage has no dtype");
  EXPECT_WORDS_OF(tensor_v3(untyped, 0, {}, {}, "float4_e2m1fn_x2"), bytes,
                  "is a scalar of two 4-bit numbers");
  EXPECT_WORDS_OF(tensor_v3(untyped, 0, {1}, {1}, "FloatStorage"), bytes,
                  "a tensor's dtype is none");
  EXPECT_WORDS_OF(tensor(storage("ComplexFloatStorage", "0", 0), 0, std::vector<std::int64_t>(8, 0),
                         std::vector<std::int64_t>(8, 1)),
                  bytes, "a complex tensor of 8 dimensions");
  EXPECT_WORDS_OF(call(v2, {s, number(0), numbers({1}), numbers({1}), "\x89", ordered_dict(),
                            dict({text("conj"), "\x88"})}),
                  bytes, "a tensor is stored as its conjugate or negative");
  EXPECT_WORDS_OF(s, bytes, "\"t\": is a storage without sizes, expected a tensor");
}

TEST(TorchArchive, HoldsStoragesAgainstTheirMembers) {
  EXPECT_WORDS_OF(all_of("FloatStorage", 2), floats({1}),
                  "storage archive/data/0 has 4 bytes, 2 elements need more");
  EXPECT_WORDS_OF(tensor(storage("FloatStorage", "7", 1), 0, {1}, {1}), floats({1}),
                  "storage archive/data/7 is missing");
  EXPECT_WORDS_OF(tensor(storage("FloatStorage", "../data.pkl", 1), 0, {1}, {1}), floats({1}),
                  "storage archive/data/../data.pkl is missing");
  const std::string pickle = whole(dict({text("t"), all_of("FloatStorage", 1)}));
  EXPECT_ERROR(
      load(zip({{"a/data.pkl", pickle}, {"a/data/0", floats({1}), deflate_stored(floats({1}))}})
               .bytes),
      FileError, "storage a/data/0 is packed, expected stored");
  // A pickle may be packed, and its checksum counts.
  const Zip packed =
      zip({{"a/data.pkl", pickle, deflate_stored(pickle)}, {"a/data/0", floats({3})}});
  EXPECT_EQ(load(packed.bytes).get("t").item(), 3.0);
  const Zip z = torch_archive(pickle, {floats({1})});
  EXPECT_ERROR(load(patched(z.bytes, z.bytes.find("FloatStorage"), "f")), FileError,
               "its checksum does not match");
}

TEST(TorchArchive, TakesAnyStem) {
  const std::string pickle = whole(dict({text("t"), all_of("FloatStorage", 1)}));
  for (const char* stem : {"archive", "model_best", "a/b", "\xc3\xa9"})
    EXPECT_EQ(load(torch_archive(pickle, {floats({2})}, "little", stem).bytes).get("t").item(), 2.0)
        << stem;
}

TEST(TorchArchive, NamesTensorsByTheirPlace) {
  const std::string t = all_of("FloatStorage", 1);
  const std::string parameter =
      call(global("torch._utils", "_rebuild_parameter"), {t, "\x88", ordered_dict()});
  const StateFile f = load(
      torch_archive(
          whole(dict({text("model"),
                      dict({text("w"), parameter, text("l"), list({t, tuple({"N", t})})}),
                      number(3), t, text("epoch"), number(9), text("again"), "(" + t + "q\1h\1t"})),
          {floats({2})})
          .bytes);
  std::string names;
  for (const StoredTensor& s : f.tensors) names += s.name + " ";
  EXPECT_EQ(names, "model.w model.l.0 model.l.1.1 3 again.0 again.1 ");
  EXPECT_EQ(f.metadata.dump(),
            "{\"model\":{\"w\":\"<tensor model.w>\",\"l\":[\"<tensor model.l.0>\",[null,\"<tensor "
            "model.l.1.1>\"]]},\"3\":\"<tensor 3>\",\"epoch\":9,\"again\":[\"<tensor "
            "again.0>\",\"<tensor again.1>\"]}");
  const StateDict all = f.state_dict();
  EXPECT_EQ(all.size(), 6u);
  EXPECT_EQ(all.at("again.1").item(), 2.0);
}

TEST(TorchArchive, TakesAParameterWithoutItsAttributes) {
  const std::string parameter =
      call(global("torch._utils", "_rebuild_parameter_with_state"),
           {all_of("FloatStorage", 2), "\x88", ordered_dict(), dict({text("tag"), text("x")})});
  const StateFile f = load_one(parameter, floats({2, 3}));
  EXPECT_EQ(f.get("t").to_vector(), (Doubles{2, 3}));
  EXPECT_EQ(f.metadata.dump(), "{\"t\":\"<tensor t>\"}");
}

TEST(TorchArchive, RefusesANameOfTwoTensors) {
  const std::string t = all_of("FloatStorage", 1);
  EXPECT_ERROR(load(torch_archive(whole(dict({text("a.b"), t, text("a"), dict({text("b"), t})})),
                                  {floats({2})})
                        .bytes),
               FileError, "\"a.b\": two tensors have this name");
}

TEST(TorchArchive, NamesATensorThatStandsAlone) {
  const StateFile f = load(torch_archive(whole(all_of("FloatStorage", 2)), {floats({2, 3})}).bytes);
  EXPECT_EQ(f.get("tensor").to_vector(), (Doubles{2, 3}));
  EXPECT_EQ(f.metadata.dump(), "{\"tensor\":\"<tensor tensor>\"}");
}

TEST(TorchArchive, ReadsAnOptimizersState) {
  const StateFile f = load(
      torch_archive(
          whole(dict({text("state"),
                      dict({number(0), dict({text("step"), all_of("FloatStorage", 1)}), number(2),
                            dict({text("step"), all_of("FloatStorage", 1)})}),
                      text("param_groups"),
                      list({dict({text("lr"), "G" + from_hex("3f50624dd2f1a9fc"), text("params"),
                                  list({number(0), number(1), number(2)})})})})),
          {floats({3})})
          .bytes);
  EXPECT_EQ(f.get("state.2.step").item(), 3.0);
  EXPECT_EQ((*f.metadata.find("param_groups"))[0].dump(), "{\"lr\":0.001,\"params\":[0,1,2]}");
}

TEST(TorchArchive, RefusesProgramsAndOtherArchives) {
  const std::string pickle = whole(dict({}));
  EXPECT_ERROR(load(zip({{"m/data.pkl", pickle},
                         {"m/code/__torch__.py", "x"},
                         {"m/constants.pkl", whole(")")}})
                        .bytes),
               FileError, "is a TorchScript program, expected weights");
  EXPECT_ERROR(load(zip({{"word/document.xml", "<x/>"}}).bytes), FileError,
               "member \"word/document.xml\" is no array");
}

/// The format of before PyTorch 1.6: pickles one after another, then each storage.
std::string legacy(const std::string& object, const std::vector<std::string>& keys,
                   const std::string& storages) {
  std::vector<std::string> named;
  for (const std::string& k : keys) named.push_back(text(k));
  return whole("\x8a\x0a" + from_hex("6cfc9c46f9206aa85019")) + whole(number(1001)) +
         whole(dict({text("little_endian"), "\x88"})) + whole(object) + whole(list(named)) +
         storages;
}
std::string counted(std::int64_t count, const std::string& data) { return little(count) + data; }

TEST(TorchArchive, ReadsTheOlderFormat) {
  const std::string w = tensor(storage("FloatStorage", "940", 6), 1, {2, 2}, {1, 2});
  const std::string b = tensor_v3(storage("UntypedStorage", "77", 2), 0, {2}, {1}, "float8_e4m3fn");
  const StateFile f =
      load(legacy(dict({text("w"), w, text("b"), b, text("n"), number(5)}), {"77", "940"},
                  counted(2, "\x3c\x40") + counted(6, floats({0, 1, 2, 3, 4, 5}))));
  EXPECT_EQ(f.container, "pt");
  EXPECT_EQ(f.get("w").to_vector(), (Doubles{1, 3, 2, 4}));
  EXPECT_EQ(f.get("b").to_vector(), (Doubles{1.5, 2}));
  EXPECT_EQ(f.metadata.find("n")->as_int(), 5);
  std::string fourth = legacy(number(1), {}, "");
  for (std::size_t at = 0; (at = fourth.find("\x80\2", at)) != fourth.npos; ++at)
    fourth[at + 1] = 4;
  EXPECT_EQ(load(fourth).metadata.find("value")->as_int(), 1);
}

TEST(TorchArchive, ReadsTheOlderFormatWithALongPickle) {
  const std::string w = tensor(storage("FloatStorage", "9", 2), 0, {2}, {1});
  const StateFile f =
      load(legacy(dict({text("long"), text(std::string(600000, 'x')), text("w"), w}), {"9"},
                  counted(2, floats({1, 2}))));
  EXPECT_EQ(f.metadata.find("long")->as_string().size(), 600000u);
  EXPECT_EQ(f.get("w").to_vector(), (Doubles{1, 2}));
}

TEST(TorchArchive, RefusesTheOlderFormatWhereItIsBroken) {
  const std::string w = dict({text("w"), tensor(storage("FloatStorage", "9", 2), 0, {2}, {1})});
  const std::string data = counted(2, floats({1, 2}));
  EXPECT_EQ(load(legacy(w, {"9"}, data)).get("w").to_vector(), (Doubles{1, 2}));
  EXPECT_ERROR(load(legacy(w, {}, "")), FileError, "storage 9 is missing");
  EXPECT_ERROR(load(legacy(w, {"8"}, data)), FileError, "storage \"8\" is listed and not used");
  EXPECT_ERROR(load(legacy(w, {"9"}, "1234")), FileError, "ends before storage 9");
  EXPECT_ERROR(load(legacy(w, {"9"}, counted(3, floats({1, 2})))), FileError,
               "storage 9 claims 3 elements, 8 bytes are left");
  EXPECT_ERROR(load(legacy(w, {"9"}, counted(-1, floats({1, 2})))), FileError,
               "claims -1 elements");
  EXPECT_ERROR(load(legacy(w, {"9"}, counted(1, floats({1})))), FileError, "needs 2 elements");
  EXPECT_ERROR(load(whole(dict({text("w"), number(1)}))), FileError,
               "is a pickle that torch.save did not write");
  EXPECT_ERROR(load(whole(global("sklearn.svm", "SVC") + ")R")), FileError,
               "the pickle asks for sklearn.svm.SVC");
  EXPECT_ERROR(load(whole("\x8a\x0a" + from_hex("6dfc9c46f9206aa85019"))), FileError,
               "torch.save did not write: its first value is not the number");
}

TEST(TorchArchive, SurvivesDamageAnywhere) {
  const std::string object =
      dict({text("w"), tensor(storage("FloatStorage", "0", 6), 1, {2, 2}, {1, 2}), text("b"),
            tensor_v3(storage("UntypedStorage", "1", 2), 0, {2}, {1}, "float8_e4m3fn")});
  const std::string w = floats({0, 1, 2, 3, 4, 5}), b = "\x3c\x40";
  for (const std::string& good : {torch_archive(whole(object), {w, b}).bytes,
                                  legacy(object, {"0", "1"}, counted(6, w) + counted(2, b))}) {
    load_all(good);
    for (std::size_t n = 0; n < good.size(); ++n)
      EXPECT_THROW(load_all(good.substr(0, n)), FileError) << n;
    std::mt19937 random(1);
    for (int i = 0; i < 3000; ++i) {
      std::string bad = good;
      for (unsigned k = 0; k <= random() % 3; ++k)
        bad[random() % bad.size()] = static_cast<char>(random());
      try {
        load_all(bad);
      } catch (const FileError&) {
      }
    }
  }
}

}  // namespace
}  // namespace dropin
