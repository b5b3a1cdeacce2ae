//! Medians.

/// The middle of `values`, which it sorts. Not a number if there are none, so that no comparison
/// with a floor holds.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
