"""template.yaml as CloudFormation sees it: parameters filled in, conditions decided, functions resolved."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "123456789012"
REGION = "eu-west-1"
NAME = "kosli-key-rotation"
FUNCTION_ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{NAME}"

PSEUDO_PARAMETERS = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": NAME,
    "AWS::URLSuffix": "amazonaws.com",
}

# What stands for AWS::NoValue: the property or the list's member is left out.
NO_VALUE = object()


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms."""


def short_form(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", short_form)
TEMPLATE = yaml.load((ROOT / "template.yaml").read_text(), Loader)


class Stack:
    """The stack that these parameters make; those that are not given have their defaults."""

    def __init__(self, **parameters):
        declared = TEMPLATE["Parameters"]
        unknown = parameters.keys() - declared.keys()
        assert not unknown, f"the template has no parameters {unknown}"
        missing = [name for name, parameter in declared.items() if "Default" not in parameter and name not in parameters]
        assert not missing, f"the template asks for {missing}"
        self.parameters = {
            name: value.split(",") if declared[name]["Type"] == "CommaDelimitedList" else value
            for name, parameter in declared.items()
            for value in [str(parameters.get(name, parameter.get("Default")))]
        }
        self.resources = {
            name: self.resolve({key: value for key, value in resource.items() if key != "Condition"})
            for name, resource in TEMPLATE["Resources"].items()
            if "Condition" not in resource or self.holds(resource["Condition"])
        }

    def properties(self, name):
        return self.resources[name]["Properties"]

    def environment(self):
        return self.properties("Function")["Environment"]["Variables"]

    def statements(self):
        """The statements of the function's role, by Sid."""
        policies = self.properties("FunctionRole")["Policies"]
        return {statement["Sid"]: statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]}

    def broken_rules(self):
        """What CloudFormation would say of the parameters before it makes anything."""
        rules = [rule for rule in TEMPLATE["Rules"].values() if self.resolve(rule.get("RuleCondition", True))]
        assertions = [assertion for rule in rules for assertion in rule["Assertions"]]
        return [one["AssertDescription"] for one in assertions if not self.resolve(one["Assert"])]

    def holds(self, condition):
        return self.resolve(TEMPLATE["Conditions"][condition])

    def resolve(self, value):
        if isinstance(value, list):
            return [resolved for resolved in map(self.resolve, value) if resolved is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (function, argument), = value.items()
            if function in ("Ref", "Condition") or function.startswith("Fn::"):
                return self.call(function.removeprefix("Fn::"), argument)
        resolved = {key: self.resolve(one) for key, one in value.items()}
        return {key: one for key, one in resolved.items() if one is not NO_VALUE}

    def call(self, function, argument):
        match function:
            case "Ref":
                return self.ref(argument)
            case "Condition":
                # In a statement of a policy, this is IAM's own word.
                return self.holds(argument) if isinstance(argument, str) else {"Condition": self.resolve(argument)}
            case "Sub":
                return re.sub(r"\$\{([^}]+)\}", lambda name: str(self.ref(name[1])), argument)
            case "GetAtt":
                return self.attribute(argument)
            case "If":
                condition, yes, no = argument
                return self.resolve(yes if self.holds(condition) else no)
        argument = self.resolve(argument)
        match function:
            case "Equals":
                return str(argument[0]) == str(argument[1])
            case "Contains":
                return argument[1] in argument[0]
            case "Not":
                return not argument[0]
            case "And":
                return all(argument)
            case "Or":
                return any(argument)
            case "Join":
                return argument[0].join(argument[1])
            case "Split":
                return argument[1].split(argument[0])
            case "Select":
                return argument[1][int(argument[0])]
        raise AssertionError(f"stack.py does not know Fn::{function}")

    def ref(self, name):
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in self.parameters:
            return self.parameters[name]
        if name in PSEUDO_PARAMETERS:
            return PSEUDO_PARAMETERS[name]
        assert name in TEMPLATE["Resources"], f"nothing is called {name}"
        match name:
            case "Function":
                return NAME
            case "LogGroup":
                return f"/aws/lambda/{NAME}"
            case "NewSecret":
                return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{self.parameters['NewSecretName']}-AbCdEf"
        return f"the {name}"

    def attribute(self, name):
        match name:
            case "Function.Arn":
                return FUNCTION_ARN
            case "LogGroup.Arn":
                return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/{NAME}:*"
        resource = name.partition(".")[0]
        assert resource in TEMPLATE["Resources"], f"nothing is called {resource}"
        return f"the {name}"
