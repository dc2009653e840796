//! Distributions of work and of the time between arrivals.

use plimsoll_core::Rng;

/// Draws of a normal number until it is above 0; with a mean above 0 all of them fail once in 10^50.
const REDRAWS: usize = 170;

/// Draws an exponentially distributed number with mean 1.
pub fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - rng.share()).ln()
}

/// Draws a normally distributed number with mean 0 and standard deviation 1 (Box and Muller 1958).
pub fn normal(rng: &mut Rng) -> f64 {
    (2.0 * exponential(rng)).sqrt() * (std::f64::consts::TAU * rng.share()).cos()
}

/// Rounds up or down at random so that the mean is `mean`.
pub fn rounded(mean: f64, rng: &mut Rng) -> usize {
    mean as usize + usize::from(rng.share() < mean.fract())
}

/// Distribution of the work of a message, in seconds of one otherwise idle core.
#[derive(Copy, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WorkDistribution {
    /// Constant work per message.
    Fixed(f64),
    /// Exponentially distributed work with this mean.
    Exponential(f64),
    /// Normally distributed work; values not above 0 are drawn again.
    Normal {
        /// Mean before redrawing.
        mean: f64,
        /// Standard deviation before redrawing.
        deviation: f64,
    },
    /// Heavy-tailed work: the logarithm is normally distributed.
    Lognormal {
        /// Median of the work.
        median: f64,
        /// Standard deviation of the logarithm; 1.5 fits a web service that also makes reports.
        sigma: f64,
    },
    /// Work of one of two fixed sizes.
    Bimodal {
        /// Work of a short message.
        short: f64,
        /// Work of a long message.
        long: f64,
        /// Share of long messages, 0 to 1.
        share: f64,
    },
}

impl WorkDistribution {
    /// Draws the work of one message.
    pub fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Fixed(span) => span,
            Self::Exponential(mean) => mean * exponential(rng),
            Self::Normal { mean, deviation } => (0..REDRAWS)
                .map(|_| mean + deviation * normal(rng))
                .find(|&drawn| drawn > 0.0)
                .unwrap_or(mean.abs()),
            Self::Lognormal { median, sigma } => median * (sigma * normal(rng)).exp(),
            Self::Bimodal { short, long, share } => {
                if rng.share() < share {
                    long
                } else {
                    short
                }
            }
        }
    }

    /// Returns the mean work.
    pub fn mean(self) -> f64 {
        match self {
            Self::Fixed(mean) | Self::Exponential(mean) => mean,
            Self::Normal { mean, deviation } => cut_mean(mean, deviation),
            Self::Lognormal { median, sigma } => median * (sigma * sigma / 2.0).exp(),
            Self::Bimodal { short, long, share } => short * (1.0 - share) + long * share,
        }
    }
}

/// Mean of a normal number above 0, by summation: the closed form needs an error function, which the standard
/// library does not have.
fn cut_mean(mean: f64, deviation: f64) -> f64 {
    if deviation <= 0.0 {
        return mean.max(0.0);
    }
    let density = |z: f64| (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let steps = (-8_000..8_000).map(|n| (f64::from(n) + 0.5) / 1_000.0);
    let above = steps.map(|z| (mean + deviation * z, density(z))).filter(|&(x, _)| x > 0.0);
    let (sum, mass) = above.fold((0.0, 0.0), |(sum, mass), (x, density)| (sum + x * density, mass + density));
    sum / mass
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_mean_they_claim() {
        let all = [
            WorkDistribution::Fixed(0.1),
            WorkDistribution::Exponential(0.1),
            WorkDistribution::Normal { mean: 0.1, deviation: 0.1 },
            WorkDistribution::Lognormal { median: 0.1, sigma: 1.0 },
            WorkDistribution::Bimodal { short: 0.01, long: 1.0, share: 0.1 },
        ];
        for work in all {
            let mut rng = Rng::new(5);
            let mean = (0..200_000).map(|_| work.draw(&mut rng)).sum::<f64>() / 200_000.0;
            assert!((mean / work.mean() - 1.0).abs() < 0.02, "{work:?}: {mean} for {}", work.mean());
        }
        let one_cut_at_zero = WorkDistribution::Normal { mean: 1.0, deviation: 1.0 }.mean();
        assert!((one_cut_at_zero - 1.2876).abs() < 1e-3, "{one_cut_at_zero}");
    }

    #[test]
    fn rounding_keeps_the_mean() {
        let mut rng = Rng::new(1);
        let sum: usize = (0..10_000).map(|_| rounded(0.7, &mut rng)).sum();
        assert!((6_700..7_300).contains(&sum), "{sum}");
        assert_eq!(rounded(3.0, &mut rng), 3);
    }
}
