#include "evidence/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace dropin::evidence {
namespace {

// Light and dark: ink, grid, ground; eight colours that keep 3:1 against both grounds.
constexpr const char* kStyle = R"(<style>
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#24292f}.t{font-weight:600}.s{font-size:12px}
.ground{fill:#fff}.axis{stroke:#57606a;fill:none}.grid{stroke:#d0d7de;fill:none}.limit{stroke:#57606a}.range{stroke:#24292f}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.ground{fill:#0d1117}.axis{stroke:#9198a1}.grid{stroke:#30363d}.limit{stroke:#9198a1}.range{stroke:#e6edf3}}
</style>
)";
constexpr const char* kColours[] = {"#d55e00", "#0a84c6", "#2a9d5c", "#c455a6", "#a07800",
                                    "#7a6fd0", "#d9435f", "#4f9393", "#8c6d5a", "#808890"};
constexpr double kWidth = 360, kHeight = 260, kLeft = 68, kTop = 36, kBottom = 52, kGap = 28;

std::string escape(const std::string& s) {
  std::string r;
  for (char ch : s)
    r += ch == '&' ? "&amp;" : ch == '<' ? "&lt;" : ch == '>' ? "&gt;" : std::string(1, ch);
  return r;
}
std::string text(double x, double y, const std::string& s, const char* anchor = "middle",
                 const char* cls = "", const char* more = "") {
  return fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" class=\"{}\"{}>{}</text>\n", x, y, anchor,
      cls, more, escape(s));
}
std::string line(double x1, double y1, double x2, double y2, const char* cls,
                 const char* more = "") {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"{}/>\n", x1, y1,
      x2, y2, cls, more);
}
std::string page(double w, double h, const std::string& body) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 "
      "0 {0:.0f} {1:.0f}\">\n{2}<rect class=\"ground\" width=\"100%\" "
      "height=\"100%\"/>\n{3}</svg>\n",
      w, h, kStyle, body);
}
// 0.001, 12, 64K
std::string number(double v, bool binary) {
  if (binary && v >= 1024 && std::fmod(v, 1024) == 0) return fmt::format("{:.0f}K", v / 1024);
  return v >= 1e6   ? fmt::format("{:.0e}", v)
         : v >= 1e4 ? fmt::format("{:.0f}", v)
                    : fmt::format("{:.4g}", v);
}

struct Scale {
  bool log;
  double low, high, from, to;
  double operator()(double v) const {
    const double t = log ? (std::log(v) - std::log(low)) / (std::log(high) - std::log(low))
                         : (v - low) / (high - low);
    return from + t * (to - from);
  }
  std::vector<double> ticks(bool binary) const {
    std::vector<double> r;
    if (log) {
      const double base = binary ? 2 : 10;
      const int first = static_cast<int>(std::ceil(std::log(low) / std::log(base) - 1e-9)),
                last = static_cast<int>(std::floor(std::log(high) / std::log(base) + 1e-9));
      const int stride = std::max(1, (last - first + (binary ? 5 : 6)) / (binary ? 6 : 7));
      for (int e = first; e <= last; e += stride) r.push_back(std::pow(base, e));
      if (!binary && last - first < 2)  // less than two decades
        for (int e = first - 1; e <= last; ++e)
          for (double m : {2.0, 5.0})
            if (m * std::pow(10, e) >= low && m * std::pow(10, e) <= high)
              r.push_back(m * std::pow(10, e));
      return r;
    }
    double step = std::pow(10, std::floor(std::log10((high - low) / 4)));
    for (double m : {1.0, 2.0, 5.0, 10.0})
      if ((high - low) / (m * step) <= 6) {
        step *= m;
        break;
      }
    for (double v = std::ceil(low / step - 1e-9) * step; v <= high * (1 + 1e-9); v += step)
      r.push_back(std::abs(v) < step * 1e-9 ? 0 : v);
    return r;
  }
};

Scale scale_of(const std::vector<Series>& all, bool y, bool log, double from, double to) {
  double low = INFINITY, high = -INFINITY;
  for (const Series& s : all)
    for (const auto& p : s.points) {
      const double v = y ? p.second : p.first;
      low = std::min(low, v), high = std::max(high, v);
    }
  if (!(low <= high)) low = 1, high = 10;
  if (log) {
    if (y) low /= 1.25, high *= 1.25;
    if (low == high) low /= 2, high *= 2;
  } else {
    const double room = high > low ? 0.06 * (high - low) : 1;
    if (y) low -= room, high += room;
    if (low == high) high += 1;
  }
  return {log, low, high, from, to};
}

bool powers_of_two(const std::vector<Series>& all) {
  bool any = false;
  for (const Series& s : all)
    for (const auto& p : s.points) {
      any = true;
      if (p.first < 1 || std::exp2(std::round(std::log2(p.first))) != p.first) return false;
    }
  return any;
}

/// Names of the lines of all charts, each with its colour; the limit's apart.
struct Legend {
  std::vector<std::string> names;
  std::string limit;

  explicit Legend(const std::vector<LineChart>& charts) {
    bool any = false;
    for (const LineChart& c : charts)
      for (const Series& s : c.series) {
        if (s.limit)
          limit = any && limit != s.name ? "the machine's limit for each" : s.name, any = true;
        else if (std::find(names.begin(), names.end(), s.name) == names.end())
          names.push_back(s.name);
      }
    has_limit = any;
  }
  bool has_limit = false;
  std::string colour(const std::string& name) const {
    return kColours[static_cast<std::size_t>(std::find(names.begin(), names.end(), name) -
                                             names.begin()) %
                    std::size(kColours)];
  }
  std::size_t longest() const {
    std::size_t n = limit.size();
    for (const auto& name : names) n = std::max(n, name.size());
    return n;
  }
  std::string drawn(double left) const {
    std::string body;
    double y = kTop + 10;
    for (const auto& n : names) {
      body +=
          fmt::format(
              "<line x1=\"{0:.1f}\" y1=\"{2:.1f}\" x2=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\" "
              "stroke-width=\"3\"/>\n",
              left, left + 20, y, colour(n)) +
          text(left + 27, y + 4, n, "start");
      y += 22;
    }
    if (has_limit)
      body +=
          line(left, y, left + 20, y, "limit", " stroke-width=\"1.5\" stroke-dasharray=\"6 4\"") +
          text(left + 27, y + 4, limit, "start");
    return body;
  }
};

/// A chart's lines; an earlier one still shows beneath a later one.
std::string drawn_lines(const std::vector<Series>& all, const Legend& legend, const Scale& sx,
                        const Scale& sy) {
  std::string body;
  std::size_t drawn = 0;
  for (const Series& s : all) {
    std::string path;
    for (const auto& p : s.points)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", sx(p.first), sy(p.second));
    if (path.empty()) continue;
    if (s.limit) {
      body += fmt::format(
          "<path d=\"{}\" class=\"limit\" fill=\"none\" stroke-width=\"1.5\" "
          "stroke-dasharray=\"6 4\"/>\n",
          path);
      continue;
    }
    const double width = std::min(4.0, 1.8 + 0.5 * static_cast<double>(all.size() - 1 - drawn++));
    body += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{:.1f}\"/>\n",
                        path, legend.colour(s.name), width);
    if (s.points.size() <= 24)
      for (const auto& p : s.points)
        body += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.2\" fill=\"{}\"/>\n",
                            sx(p.first), sy(p.second), legend.colour(s.name));
  }
  return body;
}

/// Title, grid, axes and lines of a chart that begins at `left`.
std::string drawn_chart(const LineChart& c, const Legend& legend, double left) {
  const double x0 = left + kLeft, y0 = kTop, x1 = x0 + kWidth, y1 = y0 + kHeight;
  const bool binary = powers_of_two(c.series);
  const Scale sx = scale_of(c.series, false, c.x.log, x0 + 8, x1 - 8),
              sy = scale_of(c.series, true, c.y.log, y1, y0);
  std::string body = text((x0 + x1) / 2, 22, c.title, "middle", "t");
  for (double v : sx.ticks(binary))
    body +=
        line(sx(v), y0, sx(v), y1, "grid") + text(sx(v), y1 + 17, number(v, binary), "middle", "s");
  for (double v : sy.ticks(false))
    body +=
        line(x0, sy(v), x1, sy(v), "grid") + text(x0 - 6, sy(v) + 4, number(v, false), "end", "s");
  body += fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" class=\"axis\"/>\n", x0,
      y0, kWidth, kHeight);
  body += text((x0 + x1) / 2, y1 + 40, c.x.label) +
          text(left + 16, (y0 + y1) / 2, c.y.label, "middle", "",
               fmt::format(" transform=\"rotate(-90 {:.1f} {:.1f})\"", left + 16, (y0 + y1) / 2)
                   .c_str());
  return body + drawn_lines(c.series, legend, sx, sy);
}

}  // namespace

std::string svg_lines(const std::vector<LineChart>& charts) {
  const Legend legend(charts);
  std::string body;
  double left = 0;
  for (const LineChart& c : charts) {
    body += drawn_chart(c, legend, left);
    left += kLeft + kWidth + kGap;
  }
  body += legend.drawn(left);
  return page(left + 40 + 7.3 * static_cast<double>(legend.longest()), kTop + kHeight + kBottom,
              body);
}

namespace {
std::string bars_from(const std::string& title, const std::string& label,
                      const std::vector<Bar>& bars, bool ratio) {
  std::size_t longest = 4;
  double low = ratio ? 1 : 0, high = 1;
  for (const Bar& b : bars) {
    longest = std::max(longest, b.name.size());
    if (ratio) low = std::min(low, std::min(b.value, b.low));
    high = std::max(high, std::max(b.value, b.high));
  }
  if (!ratio) {
    high = 0;
    for (const Bar& b : bars) high = std::max(high, b.value);
    if (high <= 0) high = 1;
  }
  const double x0 = 24 + 7.1 * static_cast<double>(longest), x1 = x0 + 460, step = 22, y0 = 34,
               y1 = y0 + step * static_cast<double>(bars.size());
  const Scale sx{ratio, ratio ? low / 1.15 : 0, high * (ratio ? 1.15 : 1.05), x0, x1};
  std::string body = text((x0 + x1) / 2, 22, title, "middle", "t");
  for (double v : sx.ticks(false))
    body +=
        line(sx(v), y0, sx(v), y1, "grid") + text(sx(v), y1 + 17, number(v, false), "middle", "s");
  double y = y0;
  for (const Bar& b : bars) {
    const double a = sx(ratio ? 1 : 0), e = sx(b.value);
    body += text(x0 - 8, y + 15, b.name, "end", "s");
    body += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\" "
        "opacity=\"{}\"/>\n",
        std::min(a, e), y + 4, std::max(1.0, std::abs(e - a)), step - 8,
        ratio && b.value < 1 ? kColours[0] : kColours[1], b.noisy ? 0.35 : 1);
    if (b.high > b.low)
      body +=
          line(sx(b.low), y + step / 2, sx(b.high), y + step / 2, "range", " stroke-width=\"1.5\"");
    body += text(x1 + 8, y + 15,
                 ratio ? (b.value >= 1000 ? fmt::format("{:.0f}x", b.value)
                                          : fmt::format("{:.3g}x", b.value))
                       : fmt::format("{:.4g}", b.value),
                 "start", "s");
    y += step;
  }
  if (ratio) body += line(sx(1), y0, sx(1), y1, "axis", " stroke-width=\"1.5\"");
  const bool noisy = std::any_of(bars.begin(), bars.end(), [](const Bar& b) { return b.noisy; });
  body += text((x0 + x1) / 2, y1 + 38, label + (noisy ? "; pale: too noisy for a verdict" : ""));
  return page(x1 + 76, y1 + 50, body);
}
}  // namespace

std::string svg_ratios(const std::string& title, const std::string& label,
                       const std::vector<Bar>& bars) {
  return bars_from(title, label, bars, true);
}
std::string svg_bars(const std::string& title, const std::string& label,
                     const std::vector<Bar>& bars) {
  return bars_from(title, label, bars, false);
}

}  // namespace dropin::evidence
