#include "data/image_format.h"

#ifndef DROPIN_WITH_PNG

namespace dropin::detail {
ImageReader* png_reader(const std::uint8_t*, std::size_t) { return nullptr; }
bool png_write(const Pixels&, const std::uint8_t*, int, std::string&, char (&reason)[kReason]) {
  reason[0] = '\0';
  return false;
}
}  // namespace dropin::detail

#else

#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

namespace dropin::detail {
namespace {

struct Source {
  const std::uint8_t* data;
  std::size_t left;
};

void keep_reason(png_structp png, png_const_charp text) {
  std::snprintf(static_cast<char*>(png_get_error_ptr(png)), kReason, "%s", text);
  longjmp(png_jmpbuf(png), 1);
}
void no_warning(png_structp, png_const_charp) {}

void take(png_structp png, png_bytep to, std::size_t n) {
  auto* s = static_cast<Source*>(png_get_io_ptr(png));
  if (n > s->left) png_error(png, "the file ends early");
  std::memcpy(to, s->data, n);
  s->data += n;
  s->left -= n;
}

class PngReader : public ImageReader {
 public:
  PngReader(const std::uint8_t* data, std::size_t bytes) : source_{data, bytes} {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, reason, keep_reason, no_warning);
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
  }
  ~PngReader() override { png_destroy_read_struct(&png_, &info_, nullptr); }

  bool header(Pixels& p) override {
    if (!info_) return false;
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_read_fn(png_, &source_, take);
    png_read_info(png_, info_);
    const int color = png_get_color_type(png_, info_);
    if (color == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png_);
    if (color == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png_, info_) < 8)
      png_set_expand_gray_1_2_4_to_8(png_);
    if (png_get_valid(png_, info_, PNG_INFO_tRNS)) png_set_tRNS_to_alpha(png_);
    if (png_get_bit_depth(png_, info_) == 16) png_set_strip_16(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    p.width = png_get_image_width(png_, info_);
    p.height = png_get_image_height(png_, info_);
    p.channels = png_get_channels(png_, info_);
    pixels_ = p;
    return true;
  }

  bool rows(std::uint8_t* to) override {
    if (setjmp(png_jmpbuf(png_))) return false;
    const int64_t row = pixels_.width * pixels_.channels;
    for (int pass = 0; pass < passes_; ++pass)
      for (int64_t y = 0; y < pixels_.height; ++y) png_read_row(png_, to + y * row, nullptr);
    png_read_end(png_, nullptr);
    return true;
  }

 private:
  Source source_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  int passes_ = 1;
  Pixels pixels_;
};

void give(png_structp png, png_bytep from, std::size_t n) {
  static_cast<std::string*>(png_get_io_ptr(png))->append(reinterpret_cast<const char*>(from), n);
}
void no_flush(png_structp) {}

bool write_rows(png_structp png, png_infop info, const Pixels& p, const std::uint8_t* from,
                int level, std::string* out) {
  static constexpr int kColors[] = {0, PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA,
                                    PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA};
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_write_fn(png, out, give, no_flush);
  png_set_compression_level(png, level);
  png_set_IHDR(png, info, static_cast<png_uint_32>(p.width), static_cast<png_uint_32>(p.height), 8,
               kColors[p.channels], PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  for (int64_t y = 0; y < p.height; ++y) png_write_row(png, from + y * p.width * p.channels);
  png_write_end(png, nullptr);
  return true;
}

}  // namespace

ImageReader* png_reader(const std::uint8_t* data, std::size_t bytes) {
  return new PngReader(data, bytes);
}

bool png_write(const Pixels& p, const std::uint8_t* from, int quality, std::string& out,
               char (&reason)[kReason]) {
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, reason, keep_reason, no_warning);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  const bool well = info && write_rows(png, info, p, from, quality, &out);
  png_destroy_write_struct(&png, &info);
  return well;
}

}  // namespace dropin::detail

#endif
