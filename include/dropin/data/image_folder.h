// ImageFolder: pictures in folders named after their classes.
#pragma once
#include <string>
#include <vector>

#include "dropin/data/dataset.h"
#include "dropin/data/image.h"
#include "dropin/data/transforms.h"

namespace dropin {

/// ROOT/CLASS/.../NAME.png|.jpg|.jpeg, classes and files in the order of their names
/// (torchvision.datasets.ImageFolder). get(i) = {transform(picture), class as int64 []}; without a
/// transform the picture is uint8 [3, H, W]. FileError where ROOT has no folder, or a folder no
/// picture.
class ImageFolder : public Dataset {
 public:
  explicit ImageFolder(const std::string& root, transforms::Transform transform = nullptr,
                       ImageReadMode mode = ImageReadMode::RGB);
  int64_t size() const override { return static_cast<int64_t>(samples_.size()); }
  Tensors get(int64_t i) const override;
  const std::vector<std::string>& classes() const { return classes_; }
  struct Sample {
    std::string path;
    int64_t target;
  };
  const std::vector<Sample>& samples() const { return samples_; }

 private:
  std::vector<std::string> classes_;
  std::vector<Sample> samples_;
  transforms::Transform transform_;
  ImageReadMode mode_;
};

}  // namespace dropin
