// The pictures of a benchmark's results.
#pragma once
#include <string>
#include <vector>

#include "dropin/core/json.h"

namespace dropin::evidence {

/// Makes the folder if need be and tries to write there; FileError otherwise. Before any work.
void check_folder(const std::string& who, const std::string& folder);
/// Tries the folder of a file to be written.
void check_target(const std::string& who, const std::string& path);
/// Reads a JSON file; FileError when it is missing or malformed.
Json read_json(const std::string& who, const std::string& path);
void write_text(const std::string& path, const std::string& text);

/// Draws what a file of dropin bench, dropin train or a peer run holds into <folder>/<prefix>*.svg;
/// the files written.
std::vector<std::string> draw(const Json& results, const std::string& folder,
                              const std::string& prefix = "");

}  // namespace dropin::evidence
