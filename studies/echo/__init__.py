"""The paper's ablation at the scale of nano: `python -m studies.echo studies/echo/study.yaml`."""
