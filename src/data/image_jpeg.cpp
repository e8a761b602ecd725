#include "data/image_format.h"

#ifndef DROPIN_WITH_JPEG

namespace dropin::detail {
ImageReader* jpeg_reader(const std::uint8_t*, std::size_t) { return nullptr; }
bool jpeg_write(const Pixels&, const std::uint8_t*, int, std::string&, char (&reason)[kReason]) {
  reason[0] = '\0';
  return false;
}
}  // namespace dropin::detail

#else

#include <csetjmp>
#include <cstdio>
#include <cstdlib>

// needs cstdio
#include <jpeglib.h>

#include <jerror.h>

namespace dropin::detail {
namespace {

struct Failure {
  jpeg_error_mgr manager;
  jmp_buf back;
  char* reason;
};
Failure& failure_of(j_common_ptr c) { return *reinterpret_cast<Failure*>(c->err); }

void keep_reason_jpeg(j_common_ptr c) {
  char text[JMSG_LENGTH_MAX];
  c->err->format_message(c, text);
  std::snprintf(failure_of(c).reason, kReason, "%s", text);
  longjmp(failure_of(c).back, 1);
}
// libjpeg goes on with gray where the stream ends or breaks; that is an error here.
void strict_message(j_common_ptr c, int level) {
  if (level < 0 && (c->err->msg_code == JWRN_JPEG_EOF || c->err->msg_code == JWRN_HIT_MARKER ||
                    c->err->msg_code == JWRN_HUFF_BAD_CODE))
    keep_reason_jpeg(c);
}

void prepare(Failure& f, char* reason) {
  jpeg_std_error(&f.manager);
  f.manager.error_exit = keep_reason_jpeg;
  f.manager.emit_message = strict_message;
  f.reason = reason;
}

class JpegReader : public ImageReader {
 public:
  JpegReader(const std::uint8_t* data, std::size_t bytes) : data_(data), bytes_(bytes) {
    prepare(failure_, reason);
    info_.err = &failure_.manager;
    if (setjmp(failure_.back)) return;
    jpeg_create_decompress(&info_);
    created_ = true;
  }
  ~JpegReader() override { jpeg_destroy_decompress(&info_); }

  bool header(Pixels& p) override {
    if (!created_ || setjmp(failure_.back)) return false;
    jpeg_mem_src(&info_, data_, static_cast<unsigned long>(bytes_));
    jpeg_read_header(&info_, TRUE);
    if (info_.num_components != 1 && info_.num_components != 3) {
      std::snprintf(reason, kReason, "it has %d colour components, expected gray or RGB (not CMYK)",
                    info_.num_components);
      return false;
    }
    const bool one = gray || info_.num_components == 1;
    info_.out_color_space = one ? JCS_GRAYSCALE : JCS_RGB;
    p.width = info_.image_width;
    p.height = info_.image_height;
    p.channels = one ? 1 : 3;
    return true;
  }

  bool rows(std::uint8_t* to) override {
    if (setjmp(failure_.back)) return false;
    jpeg_start_decompress(&info_);
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = to + static_cast<std::size_t>(info_.output_scanline) * info_.output_width *
                              static_cast<std::size_t>(info_.output_components);
      jpeg_read_scanlines(&info_, &row, 1);
    }
    jpeg_finish_decompress(&info_);
    return true;
  }

 private:
  const std::uint8_t* data_;
  std::size_t bytes_;
  Failure failure_;
  jpeg_decompress_struct info_{};
  volatile bool created_ = false;
};

bool compress(jpeg_compress_struct& c, Failure& f, const Pixels& p, const std::uint8_t* from,
              int quality, unsigned char** memory, unsigned long* bytes) {
  if (setjmp(f.back)) return false;
  jpeg_mem_dest(&c, memory, bytes);
  c.image_width = static_cast<JDIMENSION>(p.width);
  c.image_height = static_cast<JDIMENSION>(p.height);
  c.input_components = p.channels;
  c.in_color_space = p.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&c);
  jpeg_set_quality(&c, quality, TRUE);
  jpeg_start_compress(&c, TRUE);
  for (int64_t y = 0; y < p.height; ++y) {
    JSAMPROW row = const_cast<JSAMPROW>(from + y * p.width * p.channels);
    jpeg_write_scanlines(&c, &row, 1);
  }
  jpeg_finish_compress(&c);
  return true;
}

}  // namespace

ImageReader* jpeg_reader(const std::uint8_t* data, std::size_t bytes) {
  return new JpegReader(data, bytes);
}

bool jpeg_write(const Pixels& p, const std::uint8_t* from, int quality, std::string& out,
                char (&reason)[kReason]) {
  Failure f;
  prepare(f, reason);
  jpeg_compress_struct c{};
  c.err = &f.manager;
  jpeg_create_compress(&c);
  unsigned char* memory = nullptr;
  unsigned long bytes = 0;
  const bool well = compress(c, f, p, from, quality, &memory, &bytes);
  if (well) out.assign(reinterpret_cast<const char*>(memory), bytes);
  jpeg_destroy_compress(&c);
  std::free(memory);
  return well;
}

}  // namespace dropin::detail

#endif
