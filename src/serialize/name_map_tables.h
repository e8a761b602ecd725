// The tables of name_maps().
#pragma once
#include "dropin/serialize/name_map.h"

namespace dropin::serialize_detail {

std::vector<NameMap> name_map_tables();

}  // namespace dropin::serialize_detail
