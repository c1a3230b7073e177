// One voxel of a window that is blended into a volume: see core/window.h and core/stitch.h.
#pragma once

#include "host_device.h"

namespace ctfast::ops {

// Of the window's voxel whose weights along the axes are a, b and c.
CTFAST_HOST_DEVICE inline float window_weight(float a, float b, float c, float floor) {
  const float product = a * b * c;
  return product < floor ? floor : product;
}

CTFAST_HOST_DEVICE inline float blended(float before, float value, float weight) { return before + value * weight; }

}  // namespace ctfast::ops
