// What image.cpp asks of the two formats' libraries. The functions that call them hold no objects
// with destructors, because the libraries leave by longjmp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace dropin::detail {

constexpr std::size_t kReason = 200;

/// 8-bit pixels of `channels` numbers, row after row.
struct Pixels {
  int64_t width = 0, height = 0;
  int channels = 0;
};

/// A reader goes through header(), then rows() into width * height * channels bytes. Both answer
/// whether it went well; `reason` says why not.
class ImageReader {
 public:
  virtual ~ImageReader() = default;
  virtual bool header(Pixels& p) = 0;
  virtual bool rows(std::uint8_t* to) = 0;
  char reason[kReason] = "";
  bool gray = false;  ///< one channel will do: a reader that has it need not make three
};

/// Null where the build has no such library.
ImageReader* png_reader(const std::uint8_t* data, std::size_t bytes);
ImageReader* jpeg_reader(const std::uint8_t* data, std::size_t bytes);
/// Whether it went well; else why not. `quality` is PNG's compression level.
bool png_write(const Pixels& p, const std::uint8_t* from, int quality, std::string& out,
               char (&reason)[kReason]);
bool jpeg_write(const Pixels& p, const std::uint8_t* from, int quality, std::string& out,
                char (&reason)[kReason]);
/// What a missing library is called, for messages.
constexpr const char* kNoPng = "this build has no libpng (Debian: libpng-dev); build it again with";
constexpr const char* kNoJpeg =
    "this build has no libjpeg (Debian: libjpeg-dev); build it again with";

}  // namespace dropin::detail
