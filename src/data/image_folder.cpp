#include "dropin/data/image_folder.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

namespace dropin {

namespace fs = std::filesystem;

namespace {

bool is_picture(const fs::path& p) {
  std::string e = p.extension().string();
  std::transform(e.begin(), e.end(), e.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return e == ".png" || e == ".jpg" || e == ".jpeg";
}

std::vector<std::string> pictures_below(const fs::path& folder) {
  std::vector<std::string> r;
  try {
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      if (entry.is_regular_file() && is_picture(entry.path())) r.push_back(entry.path().string());
  } catch (const fs::filesystem_error& e) {
    fail<FileError>({folder.string(), ": cannot be read: ", e.code().message()});
  }
  std::sort(r.begin(), r.end());
  return r;
}

}  // namespace

ImageFolder::ImageFolder(const std::string& root, transforms::Transform transform,
                         ImageReadMode mode)
    : transform_(std::move(transform)), mode_(mode) {
  std::error_code error, unknown;
  for (const auto& entry : fs::directory_iterator(root, error))
    if (entry.is_directory(unknown)) classes_.push_back(entry.path().filename().string());
  DROPIN_CHECK(!error, FileError, root, ": cannot be read as a folder: ", error.message());
  DROPIN_CHECK(!classes_.empty(), FileError, root,
               ": no folders in it, expected one for each class");
  std::sort(classes_.begin(), classes_.end());
  for (std::size_t c = 0; c < classes_.size(); ++c) {
    const auto paths = pictures_below(fs::path(root) / classes_[c]);
    DROPIN_CHECK(!paths.empty(), FileError, root, "/", classes_[c],
                 ": no .png, .jpg or .jpeg in it, expected one at least");
    for (const std::string& p : paths) samples_.push_back({p, static_cast<int64_t>(c)});
  }
}

Tensors ImageFolder::get(int64_t i) const {
  DROPIN_CHECK(i >= 0 && i < size(), IndexError, "ImageFolder: example ", i, ", expected 0 to ",
               size() - 1);
  const Sample& s = samples_[static_cast<std::size_t>(i)];
  const Tensor image = read_image(s.path, mode_);
  return {transform_ ? transform_(image) : image, scalar(s.target, kInt64)};
}

}  // namespace dropin
