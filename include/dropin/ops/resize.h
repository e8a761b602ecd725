// Pictures and signals of another size.
#pragma once
#include <string>
#include <vector>

#include "dropin/autograd/autograd.h"

namespace dropin {

struct InterpolateParams {
  std::vector<int64_t> size = {};         ///< of the result; or
  std::vector<double> scale_factor = {};  ///< result over input. One number stands for all
  std::string mode = "nearest";  ///< nearest, nearest-exact, linear (3 dimensions), bilinear,
                                 ///< bicubic (4), area
  bool align_corners = false;    ///< (linear, bilinear, bicubic) the corners' centres stay
};
/// torch.nn.functional.interpolate of x [B, C, L] or [B, C, H, W]: each cell of the result from the
/// cells around its place in x; outside counts what is at the edge. OptionError unless one of size
/// and scale_factor is given, and for a mode that does not fit the dimensions. Bicubic: a = -0.75.
Tensor interpolate(const Tensor& x, const InterpolateParams& p);

}  // namespace dropin
