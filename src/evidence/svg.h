// Charts as SVG text: lines on logarithmic axes, and bars. Colours follow the reader's light or
// dark scheme; a picture needs nothing but itself.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace dropin::evidence {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;
  bool limit = false;  ///< a dashed line without marks
};
struct Axis {
  std::string label;
  bool log = true;
};
struct LineChart {
  std::string title;
  Axis x, y;
  std::vector<Series> series;
};
/// Charts side by side with one legend; a name has the same colour in each.
std::string svg_lines(const std::vector<LineChart>& charts);

struct Bar {
  std::string name;
  double value = 0, low = 0, high = 0;
  bool noisy = false;  ///< drawn pale: no verdict
};
/// Horizontal bars from 1 on a logarithmic axis, right of it better, with the range of the rounds.
std::string svg_ratios(const std::string& title, const std::string& label,
                       const std::vector<Bar>& bars);
/// Horizontal bars from 0.
std::string svg_bars(const std::string& title, const std::string& label,
                     const std::vector<Bar>& bars);

}  // namespace dropin::evidence
