// Zip archives, as the container of .npz and .pt: what is read, and each rule broken in turn.
#include <random>

#include "files/archive_bytes.h"

namespace dropin {
namespace {

using namespace testing;

const std::string kTwo = npy_bytes("<f4", "2,", bytes_of<float>({1, 2}));
const std::string kThree = npy_bytes("<i4", "3,", bytes_of<std::int32_t>({3, 4, 5}));
/// 300 ones of float32, and what zlib's deflate makes of them.
const std::string kOnes = npy_bytes("<f4", "300,", bytes_of(std::vector<float>(300, 1.f)));
const std::string kPackedOnes = from_hex(
    "9bec17ea1b10c9c860c350ad9e925a9c5ca46ea5a06e9366a2aea3a09e965f54529498179f5f94920a12774bcc294e"
    "05"
    "8a17672416a402f91ac606063a9a3a0ab55c0c0c0df6a378148fe2513c143000");

Zip two_members() { return zip({{"a.npy", kTwo}, {"b.npy", kThree}}); }
void expect_two_members(const std::string& bytes) {
  const StateFile f = load(bytes);
  ASSERT_EQ(f.tensors.size(), 2u);
  EXPECT_EQ(f.get("a").to_vector(), (std::vector<double>{1, 2}));
  EXPECT_EQ(f.get("b").to_vector(), (std::vector<double>{3, 4, 5}));
}

TEST(Zip, ReadsWhatIsStored) {
  expect_two_members(two_members().bytes);
  EXPECT_EQ(load(zip({}).bytes).tensors.size(), 0u);
}

TEST(Zip, TakesSizesFromTheDirectoryAndPlacesFromTheLocalHeader) {
  expect_two_members(zip({{.name = "a.npy", .content = kTwo, .descriptor = true},
                          {.name = "b.npy",
                           .content = kThree,
                           .descriptor = true,
                           .local_extra = "FB" + little(std::uint16_t{3}) + "ZZZ"}})
                         .bytes);
}

TEST(Zip, ReadsZip64) {
  expect_two_members(zip({{"a.npy", kTwo}, {"b.npy", kThree}}, true).bytes);
  expect_two_members(zip({{.name = "a.npy", .content = kTwo, .wide = true},
                          {.name = "b.npy", .content = kThree, .wide = true}},
                         true)
                         .bytes);
}

TEST(Zip, FindsTheEndBeforeAComment) {
  expect_two_members(zip({{"a.npy", kTwo}, {"b.npy", kThree}}, false, "a comment").bytes);
  expect_two_members(
      zip({{"a.npy", kTwo}, {"b.npy", kThree}}, true, "PK\5\6 and PK\5\6 " + std::string(30, 'x'))
          .bytes);
  expect_two_members(
      zip({{"a.npy", kTwo}, {"b.npy", kThree}}, false, std::string(65535, 'c')).bytes);
}

TEST(Zip, Inflates) {
  const StateFile f =
      load(zip({{"ones.npy", kOnes, kPackedOnes}, {"b.npy", kThree, deflate_stored(kThree), true}})
               .bytes);
  EXPECT_EQ(f.get("ones").to_vector(), std::vector<double>(300, 1.0));
  EXPECT_EQ(f.get("b").to_vector(), (std::vector<double>{3, 4, 5}));
}

TEST(Zip, RefusesWhatHasNoEnd) {
  EXPECT_ERROR(load("PK\3\4"), FileError, "4 bytes are no zip archive");
  EXPECT_ERROR(load("PK\3\4" + std::string(70000, '\0')), FileError,
               "no end of a zip archive's directory is found (truncated?)");
  EXPECT_ERROR(load(two_members().bytes + "x"), FileError, "no end of a zip archive's directory");
}

TEST(Zip, RefusesAnEndThatIsWrong) {
  const Zip z = two_members();
  const auto with = [&](std::size_t at, const std::string& bytes) {
    return patched(z.bytes, z.end + at, bytes);
  };
  EXPECT_ERROR(load(with(4, "\1")), FileError, "is a part of an archive on several disks");
  EXPECT_ERROR(load(with(6, "\1")), FileError, "is a part of an archive on several disks");
  EXPECT_ERROR(load(with(10, "\x63")), FileError, "claims 99 members in a directory of 102 bytes");
  EXPECT_ERROR(load(with(10, "\1")), FileError,
               "its directory has 102 bytes, its 1 members fill 51");
  EXPECT_ERROR(load(with(12, little(std::uint32_t{95}))), FileError, "ends within an entry");
  EXPECT_ERROR(load(with(12, little(std::uint32_t{0x7fffffff}))), FileError,
               "its directory of 2147483647 bytes at");
  EXPECT_ERROR(load(with(16, little(std::uint32_t{0x7fffffff}))), FileError,
               "does not lie before byte");
  EXPECT_ERROR(load(with(16, little(static_cast<std::uint32_t>(z.directory - 1)))), FileError,
               "its directory has no entry at byte 0");
}

TEST(Zip, RefusesAZip64EndThatIsWrong) {
  const Zip z = zip({{"a.npy", kTwo}}, true);
  const std::size_t locator = z.end - 20, record = locator - 56;
  EXPECT_ERROR(load(patched(z.bytes, locator, "x")), FileError,
               "its zip64 directory is not where its locator says");
  EXPECT_ERROR(load(patched(z.bytes, record, "x")), FileError,
               "its zip64 directory is not where its locator says");
  EXPECT_ERROR(load(patched(z.bytes, locator + 8, std::string(8, '\xff'))), FileError,
               "its zip64 directory is not where its locator says");
  EXPECT_ERROR(load(patched(z.bytes, record + 16, "\1")), FileError, "on several disks");
  EXPECT_ERROR(load(patched(z.bytes, record + 32, std::string(8, '\xff'))), FileError, "claims");
  EXPECT_ERROR(load(patched(z.bytes, record + 40, std::string(8, '\xff'))), FileError,
               "does not lie before byte");
  EXPECT_ERROR(
      load("PK\5\6" + std::string(4, '\0') + std::string(12, '\xff') + std::string(2, '\0')),
      FileError, "its zip64 directory has no locator");
}

TEST(Zip, RefusesMembersThatAreNotPlain) {
  const Zip z = two_members();
  const auto with = [&](std::size_t at, const std::string& bytes) {
    return patched(z.bytes, z.entry[1] + at, bytes);
  };
  EXPECT_ERROR(load(with(8, "\1")), FileError, "member \"b.npy\" is encrypted");
  EXPECT_ERROR(load(with(10, "\14")), FileError,
               "member \"b.npy\" is packed by method 12, expected 0 (stored) or 8 (deflate)");
  EXPECT_ERROR(load(with(20, "\1")), FileError, "member \"b.npy\" is stored as 1 bytes and has");
  EXPECT_ERROR(load(with(46, "\xff")), FileError, "a member's name is not UTF-8");
  EXPECT_ERROR(load(with(46, "a")), FileError, "member \"a.npy\" is there twice");
  EXPECT_ERROR(load(with(28, "\xff\xff")), FileError, "its directory ends within an entry");
  EXPECT_ERROR(load(patched(with(10, "\10"), z.entry[1] + 24, little(0x7fffffff))), FileError,
               "more than deflate can pack");
}

TEST(Zip, RefusesZip64SizesThatAreCutOff) {
  const Zip z = zip({{.name = "a.npy", .content = kTwo, .wide = true}});
  const std::size_t extra = z.entry[0] + 46 + 5;
  EXPECT_ERROR(load(patched(z.bytes, extra + 2, "\x19")), FileError, "its extra field is cut off");
  EXPECT_ERROR(load(patched(z.bytes, extra + 2, "\xc")), FileError, "its zip64 sizes are cut off");
}

TEST(Zip, RefusesMembersOverEachOther) {
  const Zip z = two_members();
  EXPECT_ERROR(load(patched(z.bytes, z.entry[1] + 42, little(std::uint32_t{8}))), FileError,
               "reaches into what follows at 8");
  EXPECT_ERROR(load(patched(z.bytes, z.entry[1] + 42, little(std::uint32_t{0}))), FileError,
               "reaches into what follows at 0");
  EXPECT_ERROR(load(patched(z.bytes, z.entry[1] + 42, little(std::uint32_t{0x7fffffff}))),
               FileError, "reaches into what follows at");
  // The local header's own lengths move the content into the next member.
  EXPECT_ERROR(load(patched(z.bytes, z.local[0] + 28, "\x40")).get("a"), FileError,
               "reaches into what follows at");
  EXPECT_ERROR(load(patched(z.bytes, z.local[1] + 26, "\xff\xff")).get("b"), FileError,
               "reaches into what follows at");
  EXPECT_ERROR(load(patched(z.bytes, z.local[1], "x")), FileError,
               "member \"b.npy\" has no header at byte");
}

TEST(Zip, RefusesContentThatItsChecksumDoesNotFit) {
  const Zip stored = two_members();
  const StateFile f = load(patched(stored.bytes, stored.local[1] - 1, "x"));
  EXPECT_ERROR(f.get("a"), FileError, "member \"a.npy\": its checksum does not match");
  EXPECT_EQ(f.get("b").to_vector(), (std::vector<double>{3, 4, 5}));
  const Zip packed = zip({{"b.npy", kThree, deflate_stored(kThree)}});
  EXPECT_ERROR(load(patched(packed.bytes, packed.directory - 1, "x")).get("b"), FileError,
               "member \"b.npy\": its checksum does not match");
}

TEST(Zip, RefusesDeflatedDataOfAnotherLength) {
  const auto refuse = [](const std::string& packed) {
    EXPECT_ERROR(load(zip({{"b.npy", kThree, packed}}).bytes).get("b"), FileError,
                 "its deflated data do not give");
  };
  refuse("\7" + kThree);                                             // a block of type 3 is none
  refuse(deflate_stored(kThree.substr(1)));                          // less
  refuse(deflate_stored(kThree + "x"));                              // more
  refuse(deflate_stored(kThree) + "x");                              // bytes after the last block
  refuse(deflate_stored(kThree).substr(0, 40));                      // cut off
  refuse(patched(deflate_stored(kThree), 0, std::string(1, '\0')));  // no last block
}

TEST(Zip, SurvivesDamageAnywhere) {
  const std::string good =
      zip({{"a.npy", kTwo, "", true}, {"b.npy", kThree, deflate_stored(kThree)}}, true).bytes;
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

}  // namespace
}  // namespace dropin
