"""Programs that measure: limits, speed of conversions, loading and several devices."""
