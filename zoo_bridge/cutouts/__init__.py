"""Image bytes become arrays and previews; where cutouts live. The only import of boto3."""
