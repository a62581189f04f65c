//! `scipy.ndimage.zoom` of a square image with cubic splines. Source: SciPy's
//! `ndimage/src/ni_splines.c` and `ni_interpolation.c`.

/// Pole of the cubic B-spline's filter, sqrt(3) - 2.
const POLE: f64 = -0.267_949_192_431_122_7;
const ORDER: usize = 3;

/// `zoom(image, to / from)` of an image of `from` times `from` pixels, row-major.
pub(crate) fn zoom(image: &[f64], from: usize, to: usize) -> Vec<f64> {
    debug_assert_eq!(image.len(), from * from);
    let coefficients = coefficients(image, from);
    let step = (from - 1) as f64 / (to - 1) as f64;
    let knots: Vec<Knots> = (0..to)
        .map(|pixel| Knots::at(pixel as f64 * step, from))
        .collect();
    let mut zoomed = Vec::with_capacity(to * to);
    for row in &knots {
        for column in &knots {
            let mut total = 0.0;
            for (y, row_weight) in row.indices.iter().zip(row.weights) {
                for (x, column_weight) in column.indices.iter().zip(column.weights) {
                    total += coefficients[y * from + x] * row_weight * column_weight;
                }
            }
            zoomed.push(total);
        }
    }
    zoomed
}

/// Coefficients of the spline that passes through the image: a filter down the columns, then along
/// the rows.
fn coefficients(image: &[f64], size: usize) -> Vec<f64> {
    let mut filtered = image.to_vec();
    let mut line = vec![0.0; size];
    for column in 0..size {
        for row in 0..size {
            line[row] = filtered[row * size + column];
        }
        filter(&mut line);
        for row in 0..size {
            filtered[row * size + column] = line[row];
        }
    }
    filtered.chunks_exact_mut(size).for_each(filter);
    filtered
}

/// Turns samples into spline coefficients, mirrored at both ends.
fn filter(line: &mut [f64]) {
    let last = line.len() - 1;
    let gain = (1.0 - POLE) * (1.0 - 1.0 / POLE);
    line.iter_mut().for_each(|value| *value *= gain);

    let around = POLE.powf(last as f64);
    let mut power = POLE;
    line[0] += around * line[last];
    for index in 1..last {
        line[0] += power * (line[index] + around * line[last - index]);
        power *= POLE;
    }
    line[0] /= 1.0 - around * around;
    for index in 1..=last {
        line[index] += POLE * line[index - 1];
    }

    line[last] = (POLE * line[last - 1] + line[last]) * POLE / (POLE * POLE - 1.0);
    for index in (0..last).rev() {
        line[index] = POLE * (line[index + 1] - line[index]);
    }
}

/// The four coefficients that a point depends on, along one axis.
struct Knots {
    indices: [usize; ORDER + 1],
    weights: [f64; ORDER + 1],
}

impl Knots {
    fn at(coordinate: f64, size: usize) -> Self {
        let last = size as isize - 1;
        let first = coordinate.floor() as isize - 1;
        let indices = std::array::from_fn(|offset| {
            let index = (first + offset as isize).abs();
            (if index > last {
                2 * last - index
            } else {
                index
            }) as usize
        });
        let y = coordinate - coordinate.floor();
        let z = 1.0 - y;
        let near = |x: f64| (x * x * (x - 2.0) * 3.0 + 4.0) / 6.0;
        let (first, second, third) = (z * z * z / 6.0, near(y), near(z));
        Self {
            indices,
            weights: [first, second, third, 1.0 - first - second - third],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numpy::RandomState;

    /// `ndimage.zoom(RandomState(0).uniform(.15, 1, (30, 30)), 201 / 30)`.
    #[test]
    fn zoom_equals_scipys() {
        let mut random = RandomState::new(0);
        let image: Vec<f64> = (0..900).map(|_| random.uniform(0.15, 1.0)).collect();
        let zoomed = zoom(&image, 30, 201);
        for (row, column, expected) in [
            (0, 0, 0.6164914783382262),
            (0, 200, 0.5024626489919453),
            (200, 200, 0.5041879933724044),
            (7, 100, 0.8272150244375515),
            (133, 21, 0.383912412262883),
            (199, 1, 0.8680871503473803),
        ] {
            let value = zoomed[row * 201 + column];
            assert!(
                (value - expected).abs() < 1e-15,
                "[{row}, {column}] {value} {expected}"
            );
        }
    }
}
