"""What a notebook shows beside values: the live panel of a call and the meters of quotas, as widgets."""
