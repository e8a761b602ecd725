// Pickles within PyTorch's archives: what is built, what is refused and by which words.
#include <random>

#include "files/archive_bytes.h"

namespace dropin {
namespace {

using namespace testing;
using namespace pickled;

/// What an archive of this pickle says besides tensors.
Json said(const std::string& pickle) { return load(torch_archive(pickle).bytes).metadata; }
/// The JSON of the value under "v".
std::string value(const std::string& opcodes) {
  return said(whole(dict({text("v"), opcodes}))).find("v")->dump();
}
std::string words(const std::string& pickle) {
  return refusal<FileError>([&] { said(pickle); });
}
#define EXPECT_WORDS(PICKLE, WORDS) \
  EXPECT_NE(words(PICKLE).find(WORDS), std::string::npos) << words(PICKLE)

// Python 3's pickle.dumps({"n": None, "t": (True, False), "i": [0, 255, 256, 65536, -1, 2**31,
// -2**63, 2**63, -2**63-1, 2**70], "f": (1.5, float("-inf")), "s": "\xe9\u91cd", "b": (b"",
// b"\x00\xe9a", bytearray(b"xy"), bytearray()), "e": [{}, [], (), set()], "o": ({7},
// frozenset([8]), 1-2j), 5: "five", "long": "x" * 300, "same": [s, s]}) with s = "twice", by
// protocol.
const char* const kByProtocol[] = {
    "80027d71002858010000006e71014e5801000000747102888986710358010000006971045d7105284b004bff4d00"
    "014a000001004affffffff8a0500000080008a0800000000000000808a090000000000000080008a09ffffffffff"
    "ffff7fff8a09000000000000000040655801000000667106473ff800000000000047fff000000000000086710758"
    "010000007371085805000000c3a9e9878d7109580100000062710a28635f5f6275696c74696e5f5f0a6279746573"
    "0a710b2952710c635f636f646563730a656e636f64650a710d580400000000c3a961710e58060000006c6174696e"
    "31710f867110527111635f5f6275696c74696e5f5f0a6279746561727261790a7112680d58020000007879711368"
    "0f867114527115857116527117681229527118747119580100000065711a5d711b287d711c5d711d29635f5f6275"
    "696c74696e5f5f0a7365740a711e5d711f8571205271216558010000006f7122681e5d71234b0761857124527125"
    "635f5f6275696c74696e5f5f0a66726f7a656e7365740a71265d71274b0861857128527129635f5f6275696c7469"
    "6e5f5f0a636f6d706c65780a712a473ff000000000000047c00000000000000086712b52712c87712d4b05580400"
    "000066697665712e58040000006c6f6e67712f582c01000078787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787130580400000073616d6571315d713228580500000074776963657133683365752e",
    "80037d71002858010000006e71014e5801000000747102888986710358010000006971045d7105284b004bff4d00"
    "014a000001004affffffff8a0500000080008a0800000000000000808a090000000000000080008a09ffffffffff"
    "ffff7fff8a09000000000000000040655801000000667106473ff800000000000047fff000000000000086710758"
    "010000007371085805000000c3a9e9878d7109580100000062710a284300710b430300e961710c636275696c7469"
    "6e730a6279746561727261790a710d43027879710e85710f527110680d2952711174711258010000006571135d71"
    "14287d71155d711629636275696c74696e730a7365740a71175d711885711952711a6558010000006f711b68175d"
    "711c4b076185711d52711e636275696c74696e730a66726f7a656e7365740a711f5d71204b086185712152712263"
    "6275696c74696e730a636f6d706c65780a7123473ff000000000000047c000000000000000867124527125877126"
    "4b05580400000066697665712758040000006c6f6e677128582c0100007878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "787878787878787129580400000073616d65712a5d712b2858050000007477696365712c682c65752e",
    "80049553020000000000007d94288c016e944e8c017494888986948c0169945d94284b004bff4d00014a00000100"
    "4affffffff8a0500000080008a0800000000000000808a090000000000000080008a09ffffffffffffff7fff8a09"
    "000000000000000040658c016694473ff800000000000047fff000000000000086948c0173948c05c3a9e9878d94"
    "8c01629428430094430300e961948c086275696c74696e73948c0962797465617272617994939443027879948594"
    "5294680f29529474948c0165945d94287d945d94298f94658c016f948f94284b0790284b089194680d8c07636f6d"
    "706c6578949394473ff000000000000047c0000000000000008694529487944b058c0466697665948c046c6f6e67"
    "94582c01000078787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "787878787878787878787878787878787878787878787878787878787878948c0473616d65945d94288c05747769"
    "636594682765752e",
    "8005954b020000000000007d94288c016e944e8c017494888986948c0169945d94284b004bff4d00014a00000100"
    "4affffffff8a0500000080008a0800000000000000808a090000000000000080008a09ffffffffffffff7fff8a09"
    "000000000000000040658c016694473ff800000000000047fff000000000000086948c0173948c05c3a9e9878d94"
    "8c01629428430094430300e961949602000000000000007879949600000000000000009474948c0165945d94287d"
    "945d94298f94658c016f948f94284b0790284b0891948c086275696c74696e73948c07636f6d706c657894939447"
    "3ff000000000000047c0000000000000008694529487944b058c0466697665948c046c6f6e6794582c0100007878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "78787878787878787878787878787878787878787878948c0473616d65945d94288c05747769636594682365752e"};
const char* const kSaid = R"({"n":null,"t":[true,false],"i":[0,255,256,65536,-1,2147483648,)"
                          R"(-9223372036854775808,9223372036854775808,-9223372036854775809,)"
                          R"(1180591620717411303424],"f":[1.5,"-inf"],"s":")"
                          "\xc3\xa9\xe9\x87\x8d"
                          R"(","b":[[],[0,233,97],[120,121],[]],"e":[{},[],[],[]],)"
                          R"("o":[[7],[8],[1.0,-2.0]],"5":"five","long":")";

TEST(Pickle, ReadsWhatPythonWritesByEachProtocol) {
  const std::string want = kSaid + std::string(300, 'x') + R"(","same":["twice","twice"]})";
  for (const char* hex : kByProtocol) EXPECT_EQ(said(from_hex(hex)).dump(), want);
}

TEST(Pickle, ReadsEachFormOfANumber) {
  EXPECT_EQ(value("\x8a" + std::string(1, '\0')), "0");
  EXPECT_EQ(value("\x8a\1\xff"), "-1");
  EXPECT_EQ(value("\x8a\2\xff" + std::string(1, '\0')), "255");
  EXPECT_EQ(value("\x8b" + little(std::int32_t{2}) + "\1\1"), "257");
  EXPECT_EQ(value("M\1\2"), "513");
  EXPECT_EQ(value("G" + from_hex("7ff8000000000000")), "\"nan\"");
  EXPECT_EQ(value("G" + from_hex("7ff0000000000000")), "\"inf\"");
  EXPECT_EQ(value("\x8a\11" + std::string(8, '\0') + "\1"), "18446744073709551616");
  EXPECT_EQ(value("\x8a\11" + std::string(8, '\0') + "\xff"), "-18446744073709551616");
  EXPECT_WORDS(whole("\x8b" + little(std::int32_t{-1})), "an integer of -1 bytes");
  EXPECT_WORDS(whole("\x8b" + little(std::int32_t{2000}) + std::string(2000, '\1')),
               "an integer of 2000 bytes; at most 1024 are read");
}

TEST(Pickle, ReadsWhatTorchPutsBesideTensors) {
  EXPECT_EQ(value(call(global("torch", "Size"), {numbers({3, 4})})), "[3,4]");
  EXPECT_EQ(value(call(global("torch", "device"), {text("cpu")})), "\"cpu\"");
  EXPECT_EQ(value(call(global("torch", "device"), {text("cuda"), number(1)})), "\"cuda:1\"");
  EXPECT_EQ(value(global("torch", "bfloat16")), "\"torch.bfloat16\"");
  EXPECT_EQ(value(ordered_dict()), "{}");
  EXPECT_EQ(value(call(global("collections", "OrderedDict"),
                       {list({list({text("a"), number(1)}), tuple({text("b"), "N"})})})),
            "{\"a\":1,\"b\":null}");
  EXPECT_EQ(value(call(global("collections", "Counter"), {dict({text("a"), number(2)})})),
            "{\"a\":2}");
  EXPECT_EQ(value(call(global("__builtin__", "bytes"), {})), "[]");
}

TEST(Pickle, SkipsAttributesOfADict) {
  EXPECT_EQ(value(ordered_dict() + "(" + text("a") + number(1) + "u" +
                  dict({text("_metadata"), ordered_dict()}) + "b"),
            "{\"a\":1}");
  EXPECT_WORDS(whole(number(1) + "}b"), "sets attributes of what is no dict");
}

TEST(Pickle, NamesNumbersAndTextsOfKeys) {
  EXPECT_EQ(value(dict(
                {number(-7), "N", "\x88", "N", "N", "N", "G" + from_hex("3ff8000000000000"), "N"})),
            "{\"-7\":null,\"True\":null,\"None\":null,\"1.5\":null}");
  EXPECT_WORDS(whole(dict({numbers({1}), "N"})), "a dict's key is neither a text nor a number");
  // The last value of a key counts, as in a dict; but a number and a text are two keys.
  EXPECT_EQ(value(dict({text("a"), number(1), text("b"), number(2), text("a"), number(3)})),
            "{\"a\":3,\"b\":2}");
  EXPECT_WORDS(whole(dict({number(1), "N", text("1"), "N"})),
               "has the key 1 as a number and as a text");
  EXPECT_WORDS(whole(dict({text("1"), "N", number(1), "N"})),
               "has the key 1 as a number and as a text");
}

TEST(Pickle, KeepsWhatIsNoDictUnderNamesOfItsOwn) {
  EXPECT_EQ(said(whole(list({number(1), text("a")}))).dump(), "{\"0\":1,\"1\":\"a\"}");
  EXPECT_EQ(said(whole(numbers({}))).dump(), "{}");
  EXPECT_EQ(said(whole(number(3))).dump(), "{\"value\":3}");
}

TEST(Pickle, RefusesWhateverElseIsAskedForByItsName) {
  const char* const names[][2] = {{"os", "system"},
                                  {"builtins", "eval"},
                                  {"__builtin__", "getattr"},
                                  {"collections", "defaultdict"},
                                  {"argparse", "Namespace"},
                                  {"fractions", "Fraction"},
                                  {"__main__", "Marker"},
                                  {"torch", "load"},
                                  {"torch", "FloatTensor"},
                                  {"torch._utils", "_rebuild_sparse_tensor"},
                                  {"torch._utils", "_rebuild_qtensor"},
                                  {"torch.nn.modules.linear", "Linear"},
                                  {"torch.float32", "x"},
                                  {"numpy.core.multiarray", "scalar"}};
  for (const auto& [module, name] : names) {
    std::string full = std::string(module) + "." + name;
    if (full.starts_with("__builtin__")) full.replace(0, 11, "builtins");
    const std::string want = "the pickle asks for " + full + ", and only tensors";
    EXPECT_WORDS(whole(call(global(module, name), {})), want);
    EXPECT_WORDS(whole(text(module) + text(name) + "\x93"), want);  // STACK_GLOBAL
    EXPECT_WORDS(whole(global(module, name)), "torch.save(model.state_dict(), PATH)");
  }
  EXPECT_WORDS(whole(global("os\xff", "system")), "asks for a name that is not UTF-8");
}

TEST(Pickle, RefusesCallsThatDoNotFit) {
  const auto refuse = [](const std::string& opcodes, const char* why) {
    EXPECT_WORDS(whole(opcodes), why);
  };
  refuse(number(1) + ")R", "calls what is no function");
  refuse(global("torch", "float32") + ")R", "calls what is no function");
  refuse(global("torch", "Size") + number(1) + "R", "arguments are no tuple");
  refuse(global("torch", "Size") + ")R", "calls torch.Size with what it does not take");
  refuse(call(global("torch", "device"), {number(1)}), "calls torch.device with what");
  refuse(call(global("collections", "OrderedDict"), {list({number(1)})}), "what are no pairs");
  refuse(call(global("builtins", "complex"), {number(1)}), "calls builtins.complex with what");
  refuse(call(global("_codecs", "encode"), {text("a"), text("rot13")}), "what is not latin1");
  refuse(call(global("_codecs", "encode"), {text("\xe9\x87\x8d"), text("latin1")}),
         "a text does not fit latin1");
  refuse(call(global("torch._utils", "_rebuild_parameter"), {number(1)}),
         "calls torch._utils._rebuild_parameter with what");
  refuse(global("torch", "Size") + tuple(std::vector<std::string>(17, "N")) + "R",
         "arguments are no tuple of at most 16");
}

TEST(Pickle, RefusesPersistentIdsThatAreNoStorage) {
  const auto refuse = [](const std::vector<std::string>& id) {
    EXPECT_WORDS(whole(tuple(id) + "Q"), "a persistent id is no storage");
  };
  const std::string type = global("torch", "FloatStorage");
  refuse({text("module"), type, text("0"), text("cpu"), number(1)});
  refuse({text("storage"), type, text("0"), text("cpu")});
  refuse({text("storage"), text("FloatStorage"), text("0"), text("cpu"), number(1)});
  refuse({text("storage"), type, number(0), text("cpu"), number(1)});
  EXPECT_WORDS(whole(number(1) + "Q"), "arguments are no tuple");
  EXPECT_WORDS(whole(tuple({text("storage"), type, text("0"), text("cpu"), number(-1)}) + "Q"),
               "a storage's count is no count");
  EXPECT_WORDS(
      whole(tuple({text("storage"), global("torch", "Size"), text("0"), text("cpu"), number(1)}) +
            "Q"),
      "torch.Size is no storage");
}

TEST(Pickle, RefusesUnknownOpcodesByTheirPlace) {
  EXPECT_WORDS(whole("}i"), "pickle, byte 3: opcode 105");
  EXPECT_WORDS("\x80\2\xff", "pickle, byte 2: opcode 255");
  for (const char op : {'I', 'L', 'F', 'S', 'U',    'T',    'V',    'P',    'i',    'o',    'g',
                        'p', 'd', 'l', '1', '\x82', '\x83', '\x84', '\x92', '\x97', '\x98', '\0'})
    EXPECT_WORDS(std::string("\x80\2") + op + "1\n.", "opcode");
  EXPECT_WORDS("\x80\6.", "protocol 6, expected 2 to 5");
  EXPECT_WORDS(std::string("\x80\0.", 3), "protocol 0, expected 2 to 5");
}

TEST(Pickle, RefusesAStackThatDoesNotFit) {
  EXPECT_WORDS("\x80\2.", "byte 2: takes a value where there is none");
  EXPECT_WORDS("\x80\2NN.", "leaves 1 values behind");
  EXPECT_WORDS("\x80\2(.", "takes a value where there is none");
  EXPECT_WORDS("\x80\2N(s.", "takes a value where there is none");  // below its mark
  EXPECT_WORDS("\x80\2t.", "there is no mark");
  EXPECT_WORDS("\x80\2\x85.", "takes a value where there is none");
  EXPECT_WORDS("\x80\2](NNu.", "a dict is expected to add to");
  EXPECT_WORDS("\x80\2}(Nu.", "a dict's key has no value");
  EXPECT_WORDS("\x80\2}(Ne.", "a list is expected to add to");
  EXPECT_WORDS("\x80\2)Na.", "a list is expected to add to");
  EXPECT_WORDS("\x80\2h\1.", "takes value 1 from a memo that does not hold it");
  EXPECT_WORDS("\x80\2j\1\2\3\4.", "takes value 67305985 from a memo");
  EXPECT_WORDS("\x80\2NN\x93.", "a class is named by what is no text");
  EXPECT_WORDS("\x80\2ctorch\nSize", "a line does not end");
  EXPECT_WORDS("\x80\2" + std::string("X\xff\xff\xff\xff") + "a.",
               "needs 4294967295 bytes, 2 are left");
  EXPECT_WORDS(whole("X" + little(1u) + "\xff"), "a text is not UTF-8");
  EXPECT_WORDS(whole("]q\1h\1" + std::string("a")), "nested more than 60 deep, or in itself");
  EXPECT_WORDS(whole("}q\1" + text("a") + "h\1s"), "nested more than 60 deep, or in itself");
}

TEST(Pickle, RemembersByNumber) {
  EXPECT_EQ(
      value("(" + text("a") + "q\7" + text("b") + "r" + little(300u) + "h\7j" + little(300u) + "t"),
      "[\"a\",\"b\",\"a\",\"b\"]");
  EXPECT_EQ(value("(Nq\1" + number(1) + "q\1h\1t"), "[null,1,1]");  // the later one counts
  EXPECT_EQ(value("(" + text("x") + "2t"), "[\"x\",\"x\"]");        // DUP
  EXPECT_EQ(value("(" + text("x") + "N0t"), "[\"x\"]");             // POP
}

TEST(Pickle, RefusesValuesThatMultiply) {
  // Lists of ten references to the list before: 10^30 values from 1 kB.
  std::string bomb = "]q" + std::string(1, '\0');
  for (int i = 1; i < 30; ++i) {
    const std::string before = std::string("h") + static_cast<char>(i - 1);
    std::string level = "](";
    for (int k = 0; k < 10; ++k) level += before;
    bomb += "0" + level + "eq" + static_cast<char>(i);
  }
  EXPECT_WORDS(whole(bomb), "values");
  // One long text in many places.
  std::string texts = "](" + text(std::string(1 << 20, 'x')) + "q\1";
  for (int i = 0; i < 100000; ++i) texts += "h\1";
  EXPECT_WORDS(whole(texts + "e"), "texts");
  // One long key above many values.
  std::string keys = "}" + text(std::string(1 << 20, 'k')) + "](";
  keys += std::string(1 << 20, 'N') + "es";
  EXPECT_EQ(said(whole(keys)).items()[0].second.size(), std::size_t{1} << 20);
  // One text, encoded again and again.
  std::string encoded = "](" + global("_codecs", "encode") + "q\1" +
                        text(std::string(1 << 20, 'x')) + text("latin1") + "\x86q\2R";
  for (int i = 0; i < 1000; ++i) encoded += "h\1h\2R";
  EXPECT_WORDS(whole(encoded + "e"), "copies the same values again and again");
}

TEST(Pickle, SurvivesDamageAnywhere) {
  for (const char* hex : kByProtocol) {
    const std::string good = from_hex(hex);
    for (std::size_t n = 0; n < good.size(); ++n)
      EXPECT_THROW(said(good.substr(0, n)), FileError) << n;
    std::mt19937 random(1);
    for (int i = 0; i < 1000; ++i) {
      std::string bad = good;
      for (unsigned k = 0; k <= random() % 3; ++k)
        bad[random() % bad.size()] = static_cast<char>(random());
      try {
        said(bad);
      } catch (const FileError&) {
      }
    }
  }
}

}  // namespace
}  // namespace dropin
