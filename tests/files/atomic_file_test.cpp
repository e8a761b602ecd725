#include "dropin/serialize/atomic_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include "files/temporary.h"

namespace dropin {
namespace {

using testing::content;
using testing::TemporaryFolder;

mode_t permissions(const std::string& path) {
  struct stat s {};
  stat(path.c_str(), &s);
  return s.st_mode & 07777;
}

TEST(AtomicFile, AppearsOnCommitOnly) {
  TemporaryFolder dir;
  {
    AtomicFile f(dir / "a");
    f.write("one ");
    f.write("two");
    EXPECT_FALSE(std::filesystem::exists(dir / "a"));
    f.commit();
    EXPECT_EQ(content(dir / "a"), "one two");
  }
  EXPECT_EQ(dir.files(), 1u);
}

TEST(AtomicFile, LeavesTheOldFileWithoutCommit) {
  TemporaryFolder dir;
  testing::write(dir / "a", "old");
  {
    AtomicFile f(dir / "a");
    f.write("new");
  }
  EXPECT_EQ(content(dir / "a"), "old");
  EXPECT_EQ(dir.files(), 1u);
}

TEST(AtomicFile, LeavesTheOldFileWhenTheDiskIsFull) {
  TemporaryFolder dir;
  testing::write(dir / "a", "old");
  for (const long long room : {0, 1, 5}) {
    AtomicFile f(dir / "a");
    fail_writes_after(room);
    EXPECT_ERROR((f.write("123"), f.write("456")), FileError,
                 "No space left on device; the file is as it was before");
    fail_writes_after(-1);
    EXPECT_EQ(content(dir / "a"), "old");
    EXPECT_EQ(dir.files(), 1u) << "the temporary is gone";
  }
}

TEST(AtomicFile, TwoWritersDoNotMix) {
  TemporaryFolder dir;
  AtomicFile a(dir / "x"), b(dir / "x");
  a.write("aaaa");
  b.write("bb");
  a.commit();
  EXPECT_EQ(content(dir / "x"), "aaaa");
  b.commit();
  EXPECT_EQ(content(dir / "x"), "bb");
  EXPECT_EQ(dir.files(), 1u);
}

TEST(AtomicFile, KeepsPermissionsAndFollowsTheUmask) {
  TemporaryFolder dir;
  testing::write(dir / "private", "old");
  chmod((dir / "private").c_str(), 0600);
  const mode_t before = umask(027);
  for (const char* name : {"private", "fresh"}) {
    AtomicFile f(dir / name);
    f.write("new");
    f.commit();
  }
  umask(before);
  EXPECT_EQ(permissions(dir / "private"), 0600u);
  EXPECT_EQ(permissions(dir / "fresh"), 0640u);
}

TEST(AtomicFile, WritesThroughALink) {
  TemporaryFolder dir;
  testing::write(dir / "target", "old");
  ASSERT_EQ(symlink("target", (dir / "link").c_str()), 0);
  AtomicFile f(dir / "link");
  f.write("new");
  f.commit();
  EXPECT_TRUE(std::filesystem::is_symlink(dir / "link"));
  EXPECT_EQ(content(dir / "target"), "new");
}

TEST(AtomicFile, RefusesFoldersDevicesAndMissingFolders) {
  TemporaryFolder dir;
  EXPECT_ERROR(AtomicFile(dir / "missing/a"), FileError,
               "cannot be written: No such file or directory");
  EXPECT_ERROR(AtomicFile(dir / ""), FileError, "is not a regular file");
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR(AtomicFile(dir / "pipe"), FileError, "is not a regular file");
  EXPECT_ERROR(AtomicFile("/dev/null"), FileError, "is not a regular file");
  EXPECT_ERROR(AtomicFile(""), FileError, "is empty");
}

}  // namespace
}  // namespace dropin
