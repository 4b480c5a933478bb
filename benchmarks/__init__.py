"""Speed against named baselines: what is compared, how it is measured, and the page docs/performance.md."""
