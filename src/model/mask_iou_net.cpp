#include "dropin/model/mask_iou_net.h"

namespace dropin {

namespace {
Tensor greatest(const Tensor& x) {
  return max(x.flatten(2), 2).values;
}  // [N, C, h, w] -> [N, C]; the first of equals
}  // namespace

FastMaskIoUNet::FastMaskIoUNet(const FastMaskIoUNetOptions& o) : Component(o) {
  DROPIN_CHECK(o.num_classes > 0, OptionError, who(), ": num_classes is ", o.num_classes,
               ", expected a positive number");
  DROPIN_CHECK(!o.channels.empty(), OptionError, who(),
               ": channels is empty, expected at least one layer");
  for (const int64_t c : o.channels)
    DROPIN_CHECK(c > 0, OptionError, who(), ": channels holds ", c, ", expected positive numbers");
  net_ = child<Sequential>("maskiou_net");
  auto layer = [&](int64_t in, int64_t out, int64_t kernel, int64_t stride) {
    auto conv = Box<Conv2d>(new Conv2d(
        {.in_channels = in, .out_channels = out, .kernel_size = kernel, .stride = stride}));
    Tensors p = conv->parameters();
    no_grad guard;
    p[0].copy_(init::xavier_uniform(p[0].sizes(), in * kernel * kernel, out * kernel * kernel));
    p[1].zero_();
    net_->add(Box<Module>(std::move(conv))).add(Box<Module>(new ReLU));
  };
  int64_t in = 1;
  for (const int64_t c : o.channels) layer(std::exchange(in, c), c, 3, 2);
  layer(in, o.num_classes, 1, 1);
}

void FastMaskIoUNet::check(const Tensor& x) const {
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == 1, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [N, 1, h, w]");
  int64_t least = 1;
  for (std::size_t i = 0; i < options_.channels.size(); ++i) least = 2 * least + 1;
  DROPIN_CHECK(x.size(2) >= least && x.size(3) >= least, ShapeError, who(), ": x is ", x.sizes(),
               ", expected sides of at least ", least, " because there are ",
               static_cast<int64_t>(options_.channels.size()), " layers");
}

Tensor FastMaskIoUNet::forward(const Tensor& x) {
  check(x);
  return greatest((*net_)(x));
}

Tensor FastMaskIoUNet::forward(const Tensor& x, const Tensor& classes) {
  check(x);
  DROPIN_CHECK(classes.dtype() == kInt64, DTypeError, who(), ": classes is ", classes.dtype(),
               ", expected int64");
  DROPIN_CHECK(classes.sizes() == Shape{x.size(0)}, ShapeError, who(), ": classes is ",
               classes.sizes(), ", expected [", x.size(0), "] because x is ", x.sizes());
  for (const double v : classes.to_vector())
    DROPIN_CHECK(v >= 0 && v < static_cast<double>(options_.num_classes), IndexError, who(),
                 ": class ", v, " is outside [0, ", options_.num_classes, ")");
  const auto layers = net_->children();
  Tensor h = x;
  for (std::size_t i = 0; i + 2 < layers.size(); ++i) h = detail::call_layer(*layers[i].second, h);
  const Tensors last =
      layers[layers.size() - 2].second->parameters();  // weight [classes, C, 1, 1], bias [classes]
  const int64_t n = h.size(0), c = h.size(1);
  const Tensor w = index_select(last[0], 0, classes).reshape({n, 1, c});
  const Tensor y =
      relu(matmul(w, h.flatten(2)) + index_select(last[1], 0, classes).reshape({n, 1, 1}));
  return greatest(y.unsqueeze(3)).squeeze(1);
}

}  // namespace dropin
